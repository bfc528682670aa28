"""Draws the demo in a terminal: steps, notifications as a phone shows them, the trace."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct
from rich import box
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

WIDTH = 80
_CARD = 52
_INDENT = 4
_APP = "EXAMPLE CHAT"
_VENDORS = {"apns": "APNs", "fcm": "FCM"}

_MEANING = {
    ("sent", ""): ("green", "The vendor took it: the phone rings."),
    ("suppressed", "online"): (
        "yellow",
        "The user was online. The push was held for a moment, in case an offline event was still on its way, and"
        " then dropped.",
    ),
    ("invalid_token", "Unregistered"): (
        "red",
        "The vendor says that the app is gone from this phone, so the device was removed.",
    ),
    ("skipped", "no_device"): ("bright_black", "The user has no registered phone, so there was nothing to send."),
}


class Shown(Struct, frozen=True):
    """What a phone shows of one push, read from the request that the vendor got."""

    vendor: str
    title: str
    body: str
    thread: str
    refusal: str = ""

    @classmethod
    def of(cls, call: Mapping[str, Any]) -> Shown:
        """From a recorded request of the stand-in."""
        document = json.loads(call["body"])
        vendor = _VENDORS[call["server"]]
        if vendor == "APNs":
            words, data = document["aps"]["alert"], document
        else:
            words, data = document["message"]["notification"], document["message"]["data"]
        refusal = "" if call["answered"] == 200 else f"{call['answered']} Unregistered"
        return cls(vendor, words["title"], words["body"], f"{data['channel_type']}:{data['channel_id']}", refusal)


class Stage:
    """Where the demo is shown."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def welcome(self, webhook: str) -> None:
        lines = Text.assemble(
            ("Pushbridge", "bold"),
            ", the real service, with stand-ins for APNs and FCM beside it.\n",
            "What happens below is posted as WuKongIM posts it, to\n",
            (webhook, "cyan"),
            "\nEach push is drawn as the vendor received it.",
        )
        self._console.print(Panel(lines, box=box.ROUNDED, border_style="cyan", width=WIDTH))

    def step(self, number: int, title: str, note: str, said: str) -> None:
        self._console.print()
        self._console.print(Text.assemble((f" {number} ", "bold reverse cyan"), " ", (title, "bold")))
        if said:
            self._console.print(Padding(Text(said, style="italic"), (0, 0, 0, _INDENT), expand=False))
        self._console.print(Padding(Text(note, style="bright_black"), (0, 0, 0, _INDENT), expand=False))

    def card(self, shown: Shown, phone: str, at: datetime) -> None:
        """One notification, as the lock screen of `phone` shows it; struck out where the vendor refused it."""
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(_APP, style="bright_black"), Text(f"{at:%H:%M}", style="bright_black"))
        crossed = " strike" if shown.refusal else ""
        words = Group(
            head,
            Text(shown.title, style=f"bold{crossed}"),
            Text(shown.body, style=crossed.strip()),
            Text(f"thread {shown.thread}", style="bright_black"),
        )
        if shown.refusal:
            colour, outcome = "red", f"{shown.vendor} answers {shown.refusal}"
        else:
            colour, outcome = "green", f"{shown.vendor} took it"
        panel = Panel(
            words,
            title=Text(phone, style="bold"),
            title_align="left",
            subtitle=Text(outcome, style=colour),
            subtitle_align="right",
            border_style=colour,
            box=box.ROUNDED,
            width=_CARD,
        )
        self._console.print(Padding(panel, (0, 0, 0, _INDENT), expand=False))

    def peace(self, name: str, why: str) -> None:
        """Somebody whose phone stays silent."""
        line = Text.assemble((f"{name}: ", "bold"), (why, "yellow"))
        self._console.print(Padding(line, (0, 0, 0, _INDENT), expand=False))

    def trace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """`rows`: records of the trace, the oldest first, with `name` and `about` added."""
        self._console.print()
        self._console.print(
            Text.assemble(("What became of each push ", "bold"), ("(GET /admin/v1/trace)", "bright_black"))
        )
        table = Table(box=box.SIMPLE_HEAD, width=WIDTH, pad_edge=False)
        for heading in ("recipient", "message", "provider", "outcome", "reason"):
            table.add_column(heading)
        table.add_column("ms", justify="right")
        meanings: dict[tuple[str, str], tuple[str, str]] = {}
        for row in rows:
            key = (row["outcome"], row["reason"])
            colour, meaning = _MEANING.get(key, ("magenta", "See the reason."))
            meanings.setdefault(key, (colour, meaning))
            table.add_row(
                row["name"],
                row["about"],
                row["provider"] or "-",
                Text(row["outcome"], style=colour),
                row["reason"] or "-",
                str(row["latency_ms"]),
            )
        self._console.print(table)
        legend = Table.grid(padding=(0, 2))
        legend.add_column(no_wrap=True)
        legend.add_column(ratio=1)
        for (outcome, _), (colour, meaning) in meanings.items():
            legend.add_row(Text(outcome, style=colour), meaning)
        self._console.print(legend, width=WIDTH)

    def end(self, wrong: Sequence[str]) -> None:
        self._console.print()
        for line in wrong:
            self._console.print(Text(f"Not as expected: {line}", style="bold red"))
        if not wrong:
            self._console.print(Text("That was the demo; nothing of it is left. `make run` starts your own."))

"""Every order of what WuKongIM may say of a user, each lived by a user of its own, and a `kill -9` in the midst of it.

tests/dispatch/test_presence_orders.py goes on for longer and needs no answer of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
from msgspec import Struct

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, until
from tests.e2e.wukongim import Server

LIVES = ["M", "MO", "OM", "MOX", "OMX", "OXM", "MOXO", "OMXO", "OXMO", "OXOM", "OXOXM"]
"""What happens to a user: comes online (O), leaves (X), is written to (M)."""
WAYS = ["told", "late", "twice", "never"]
"""How the server tells of coming or leaving; what is late or said again comes after what happens next."""
ROUNDS = 6


class User(Struct, frozen=True):
    uid: str
    life: str
    ways: tuple[str, ...]

    def told(self, at: int) -> Iterator[str]:
        """The statuses posted at once when something happens for the at-th time, if there are any."""
        if self._way(at) in ("told", "twice"):
            yield self._status(at)

    def told_late(self, at: int) -> Iterator[str]:
        """The statuses of what happened before that."""
        if at and self._way(at - 1) in ("late", "twice"):
            yield self._status(at - 1)

    def _way(self, at: int) -> str:
        if at >= len(self.life) or self.life[at] == "M":
            return ""
        return self.ways[at - (self.life.index("M") < at)]

    def _status(self, at: int) -> str:
        online = int(self.life[at] == "O")
        connection = self.life[: at + 1].count("O")
        return f"{self.uid}-0-{online}-{connection}-{online}-{online}"

    @property
    def is_owed(self) -> bool:
        """Offline when the message came and from then on; whoever came online after it has it from the server."""
        return self.life in ("M", "OXM", "OXOXM")

    @property
    def is_spared(self) -> bool:
        """Online when the message came and from then on, and the server said so at once."""
        return self.life.endswith("OM") and {*self.ways} == {"told"}


def users(prefix: str, most: int) -> list[User]:
    return [
        User(f"{prefix}-{life}-{number}", life, ways)
        for life in LIVES
        if len(life) <= most
        for number, ways in enumerate(product(WAYS, repeat=len(life) - 1))
    ]


def live(service: Service, wukongim: Server, everybody: list[User], kill_after: int, apart: bool) -> dict[str, int]:
    """Have all of it happen and be told, round by round; the message that each user was sent."""
    messages: dict[str, int] = {}
    for at in range(ROUNDS):
        doing: dict[str, list[User]] = {act: [u for u in everybody if u.life[at : at + 1] == act] for act in "OXM"}
        wukongim.online |= {user.uid: [0] for user in doing["O"]} | {user.uid: [] for user in doing["X"]}
        service.statuses(*(status for user in everybody for status in user.told(at)))
        if written_to := [user.uid for user in doing["M"]]:
            messages |= dict.fromkeys(written_to, service.offline(written_to, channel_type=2, channel_id="g"))
        service.statuses(*(status for user in everybody for status in user.told_late(at)))
        if at == kill_after:
            service.kill()
            service.start()
        elif apart:
            until(lambda: service.query("SELECT count(*) FROM events WHERE state = 0") == [(0,)], "all is planned")
    return messages


@pytest.mark.soak
def test_whoever_is_offline_in_the_end_has_their_push(
    start: Callable[..., Service], standin: StandinProcess, wukongim: Server, soak: bool
) -> None:
    service = start(wukongim={"api_url": wukongim.url}, presence={"hold": "300ms"})
    turns = list(product(range(ROUNDS), (False, True))) if soak else [(1, False)]
    for turn, (kill_after, apart) in enumerate(turns):
        everybody = users(f"t{turn}", most=5 if soak else 3)
        tokens = {user.uid: apns_token((turn << 16) + n) for n, user in enumerate(everybody)}
        service.register_many(
            [{"uid": uid, "device_id": "phone", "provider": "ios", "token": token} for uid, token in tokens.items()]
        )
        messages = live(service, wukongim, everybody, kill_after, apart)
        until(service.is_idle, "nothing waits any more", 60)
        outcomes = {(int(r["message_id"]), r["uid"]): r["outcome"] for r in service.records()}
        for user in everybody:
            wanted = ["sent"] if user.is_owed else ["suppressed"] if user.is_spared else ["sent", "suppressed"]
            assert outcomes[messages[user.uid], user.uid] in wanted, (user, kill_after, apart)

"""Prints each push in place of sending it: for a first run without credentials."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

from msgspec import Struct

from providers.kit.base import Delivered, Notice, Outcome, Provider, Request, Response, Target, Unreachable
from providers.kit.text import clean

_BIDI_CONTROLS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `type: console` block; there is nothing to set."""

    type: str


def build(name: str, config: Config, stream: TextIO | None = None) -> Provider:
    """stream: where to print; the process's standard output at the time of printing if None."""
    return Console(name, stream)


class Console(Provider):
    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        self.name = name
        self.local = self._print
        self._stream = stream

    def prepare(self, notice: Notice, budget: int | None = None) -> str:
        title, body = _shown(notice.title), _shown(notice.body)
        return f"{title}: {body}  ({_shown(notice.thread)}, message {_shown(notice.message_id)})"

    def request(self, prepared: str, target: Target) -> Request:
        line = f"push to {_shown(target.device_id)} ({_masked(target.token)}) {prepared}\n"
        return Request("PRINT", "/", {"push-id": target.push_id}, line.encode())

    def read(self, response: Response) -> Outcome:
        return Delivered(response.headers.get("push-id", ""))

    def describe(self) -> str:
        return "console: prints title and body of each push, sends nothing"

    async def _print(self, request: Request) -> Response:
        stream = self._stream or sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            stream.write(request.body.decode().encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):
            raise Unreachable("the output is closed") from None
        return Response(200, dict(request.headers), b"")


def _shown(text: str) -> str:
    """The text on one line, without what would steer the terminal."""
    return "".join(
        " " if unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in _BIDI_CONTROLS else char
        for char in clean(text)
    )


def _masked(token: str) -> str:
    return f"{_shown(token[:4])}…" if len(token) > 8 else "…"

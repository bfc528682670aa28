"""Asks WuKongIM itself who is online: `POST {api}/user/onlinestatus`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import structlog

from providers.kit.base import Request, Send, Unreachable

log = structlog.get_logger()

SILENCE = 5_000
"""Milliseconds for which a server that gave no answer is not asked again, whoever would like to know."""
MOST = 5_000
"""Uids in one request: a server answered 5,001 in 4 to 20 ms."""


class _Record(msgspec.Struct):
    """A connection of a user. WuKongIM's device flag is one byte."""

    uid: str
    device_flag: Annotated[int, msgspec.Meta(ge=0, le=255)]
    online: int


_decode = msgspec.json.Decoder(list[_Record]).decode


class Ask:
    """Describes the question, reads the answer; `send` does the rest. `now`: UNIX milliseconds."""

    ANSWER_LIMIT = 8 << 20
    """Bytes that an answer may have: one of 5,000 uids of 240 bytes, each online on four devices, has 6 MB."""

    def __init__(self, send: Send, token: str, now: Callable[[], int]) -> None:
        self._send = send
        self._headers = {"content-type": "application/json"} | ({"token": token} if token else {})
        self._now = now
        self._silent_until = 0

    @property
    def silent(self) -> bool:
        """Whether the server gave no answer lately, so that it is not asked."""
        return self._now() < self._silent_until

    async def __call__(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        """The device flags that are online, for each of these users; None where the server gave no usable answer."""
        if self.silent:
            return None
        answer = await self._answer(uids)
        if answer is None:
            log.warning("WuKongIM did not say who is online", action="ask", users=len(uids))
            self._silent_until = self._now() + SILENCE
        return answer

    async def _answer(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        found: dict[str, set[int]] = {uid: set() for uid in uids}  # each uid once: v3 answers repeats quadratically
        names = list(found)
        for start in range(0, len(names), MOST):
            body = msgspec.json.encode(names[start : start + MOST])
            try:
                answer = await self._send(Request("POST", "/user/onlinestatus", self._headers, body))
                if answer.status != 200:
                    return None
                records = _decode(answer.body)
            except (Unreachable, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None
            for record in records:
                if record.online == 1 and record.uid in found:
                    found[record.uid].add(record.device_flag)
        return {uid: frozenset(flags) for uid, flags in found.items()}

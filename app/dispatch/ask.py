"""Asks WuKongIM itself who is online: `POST {api}/user/onlinestatus`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from providers.kit.base import Request, Send, Unreachable

MOST = 5_000
"""Uids in one request: a server answered 5,001 in 4 to 20 ms."""


class _Record(msgspec.Struct):
    """A connection of a user. WuKongIM's device flag is one byte."""

    uid: str
    device_flag: Annotated[int, msgspec.Meta(ge=0, le=255)]
    online: int


_decode = msgspec.json.Decoder(list[_Record]).decode


class Ask:
    """Describes the question, reads the answer; `send` does the rest."""

    ANSWER_LIMIT = 8 << 20
    """Bytes that an answer may have: one of 5,000 uids of 240 bytes, each online on four devices, has 6 MB."""

    def __init__(self, send: Send, token: str) -> None:
        self._send = send
        self._headers = {"content-type": "application/json"} | ({"token": token} if token else {})

    async def __call__(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        """The device flags that are online, for each of these users; None where the server gave no usable answer."""
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

"""Asks WuKongIM itself who is online: `POST {api}/user/onlinestatus`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from providers.kit.base import Request, Send, Unreachable

MOST = 5_000
"""Uids in one request: a server answered 5,001 in 4 to 20 ms."""

_decode = msgspec.json.Decoder().decode


class Ask:
    """Describes the question, reads the answer; `send` does the rest."""

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
                records = _decode(answer.body) if answer.status == 200 else None
            except (Unreachable, msgspec.DecodeError, UnicodeDecodeError):
                return None
            if not isinstance(records, list):
                return None
            for record in records:
                _note(record, found)
        return {uid: frozenset(flags) for uid, flags in found.items()}


def _note(record: object, found: dict[str, set[int]]) -> None:
    if not isinstance(record, dict):
        return
    uid, flag = record.get("uid"), record.get("device_flag")
    if record.get("online") == 1 and isinstance(flag, int) and uid in found:
        found[uid].add(flag)

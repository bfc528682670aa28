"""What was received, kept for the tests to look at and to wait for."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from app.demo.standin.values import Call

_MOST = 100_000


class Recorder:
    """Keeps the first 100,000 calls and counts all."""

    def __init__(self) -> None:
        self._waiting: list[_Waiter] = []
        self.clear()

    def clear(self) -> None:
        self._calls: list[Call] = []
        self._n = 0
        self.requests: Counter[str] = Counter()
        self.connections: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def add(self, call: Call) -> None:
        self._n += 1
        call.n = self._n
        self.requests[call.server] += 1
        if len(self._calls) < _MOST:
            self._calls.append(call)
        for waiter in self._waiting:
            waiter.offer(call)

    def find(self, since: int = 0, server: str | None = None, token: str | None = None) -> list[dict[str, Any]]:
        return [_shown(call) for call in self._calls[since:] if _matches(call, server, token)]

    async def wait(self, count: int, server: str | None, token: str | None, seconds: float) -> bool:
        """Whether at least `count` calls matched came before `seconds` were over."""
        waiter = _Waiter(server, token, count)
        for call in self._calls:
            waiter.offer(call)
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.done.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.remove(waiter)
        return True


class _Waiter:
    def __init__(self, server: str | None, token: str | None, count: int) -> None:
        self._server = server
        self._token = token
        self._missing = count
        self.done = asyncio.Event()
        self._look()

    def offer(self, call: Call) -> None:
        if _matches(call, self._server, self._token):
            self._missing -= 1
            self._look()

    def _look(self) -> None:
        if self._missing <= 0:
            self.done.set()


def _matches(call: Call, server: str | None, token: str | None) -> bool:
    return server in (None, call.server) and token in (None, call.device)


def _shown(call: Call) -> dict[str, Any]:
    return {
        "n": call.n,
        "server": call.server,
        "connection": call.connection,
        "stream": call.stream,
        "method": call.method,
        "path": call.path,
        "headers": [[name.decode(errors="replace"), value.decode(errors="replace")] for name, value in call.headers],
        "body": call.body.decode(errors="replace"),
        "certified": call.certified,
        "device": call.device,
        "answered": call.answered,
        "cancelled": call.cancelled,
        "fault": call.fault,
        "ignored": call.ignored,
    }

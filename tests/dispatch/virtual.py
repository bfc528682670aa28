"""An event loop whose time passes only when nothing is left to do, so that a minute takes milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

START = 1_785_398_400_000
"""UNIX milliseconds at which such a loop begins."""


class _Selector(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for ever"
            self.loop.passed += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Seconds since its start are in `passed`. What asks for a thread is done at once: nothing runs beside it."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.passed = 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.passed

    def time_ns(self) -> int:
        """The wall clock: stands for `time.time_ns`."""
        return START * 1_000_000 + round(self.passed * 1e9)

    def now_ms(self) -> int:
        return self.time_ns() // 1_000_000

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

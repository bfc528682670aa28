"""What the parts of one dispatcher share: the database and its threads, the senders, who wakes whom."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import structlog

from app.dispatch.sender import Sender
from app.dispatch.steps import Renderer, Rules
from app.dispatch.work import Job
from app.settle import Limits
from app.store.dialect import Database, Unavailable, reason
from providers.kit.base import Provider

log = structlog.get_logger()

T = TypeVar("T")

LEASE = 30_000
"""Milliseconds that a claim lasts unless it is renewed."""
GATHER = 0.01
"""Seconds between being woken and looking."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 2.0
"""Seconds before a database that could not be used is tried again; doubled each time."""
POLL = 1.0
"""Seconds after which a part looks by itself when nobody woke it."""


class Shared:
    """Made once a dispatcher, before its parts. `senders` are put in when the settler exists.

    patience: until when (time.monotonic) storage that fails is waited for.
    """

    def __init__(
        self,
        db: Database,
        providers: Mapping[str, Provider],
        rules: Rules,
        limits: Limits,
        owner: str,
        parts: Sequence[str],
    ) -> None:
        self.db = db
        self.providers = providers
        self.rules = rules
        self.limits = limits
        self.owner = owner
        self.senders: dict[str, Sender] = {}
        self.room = asyncio.Event()
        self.wake = {name: asyncio.Event() for name in parts}
        self.patience = float("inf")
        self._fault = ""
        self._turns = _Turns()
        self._reads = ThreadPoolExecutor(1, "reads")
        self._long_reads = ThreadPoolExecutor(1, "long-reads")
        self._writes = ThreadPoolExecutor(1, "writes")

    async def read(self, function: Callable[[], T]) -> T:
        """Run a function that reads the database, beside a write that is under way; again while it cannot be used."""
        return await self._insist(function, None if self.db.reads_at_once else self._reads)

    async def read_long(self, function: Callable[[], T]) -> T:
        """As `read`, for what may take so long that neither the event loop nor another read should wait for it."""
        return await self._insist(function, self._long_reads)

    async def write(self, function: Callable[[], T], urgent: bool = False) -> T:
        """Run a function that writes the database, after those before it; again while it cannot be used.

        So it must be one transaction, or several that may be run again. urgent: only after the one that runs.
        """
        async with self._turns.take(urgent):
            return await self._insist(function, self._writes)

    async def _insist(self, function: Callable[[], T], threads: ThreadPoolExecutor | None) -> T:
        wait = FIRST_WAIT
        while True:
            try:
                if threads is None:
                    result = function()
                else:
                    result = await asyncio.get_running_loop().run_in_executor(threads, function)
            except Unavailable as error:
                self._storage(reason(error))
                if time.monotonic() > self.patience:
                    raise
            else:
                self._storage("")
                return result
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def _storage(self, fault: str) -> None:
        """One line at each change: what else fails meanwhile fails for the same reason."""
        if bool(fault) == bool(self._fault):
            return
        self._fault = fault
        if fault:
            log.error("storage fails", action="storage", reason=fault)
        else:
            log.info("storage works again", action="storage")

    def close(self) -> None:
        self._reads.shutdown()
        self._long_reads.shutdown()
        self._writes.shutdown()

    async def wait(self, part: str, seconds: float) -> None:
        """Return soon after this part is woken, or after `seconds`."""
        event = self.wake[part]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
                # Under load every webhook wakes it: one look serves all that came in the meantime.
                await asyncio.sleep(GATHER)
        event.clear()

    def renderer(self) -> Renderer:
        return Renderer(self.rules, self.providers)

    def submit(self, jobs: Sequence[Job], now: int) -> None:
        """Hand pushes to their senders; those that there is no room for wait in the database."""
        by_provider: dict[str, list[Job]] = {}
        for job in jobs:
            by_provider.setdefault(job.device.provider, []).append(job)
        for name, some in by_provider.items():
            self.senders[name].submit(some, now)


class _Turns:
    """Who writes next: what is urgent before the rest, which is in order."""

    def __init__(self) -> None:
        self._taken = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def take(self, urgent: bool) -> AsyncIterator[None]:
        if self._taken:
            mine = asyncio.get_running_loop().create_future()
            (self._urgent if urgent else self._others).append(mine)
            try:
                await mine
            except asyncio.CancelledError:
                if not mine.cancelled():  # it had the turn already
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        for waiting in (self._urgent, self._others):
            while waiting:
                if not (first := waiting.popleft()).done():
                    first.set_result(None)
                    return
        self._taken = False

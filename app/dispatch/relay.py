"""Passes events on to the targets of `relay:`, for each target and kind of event in the order of their arrival.

An event is sent when the one before it has been answered 200 and that is written down. So a dispatcher that is killed
leaves at most one event a stream that may be sent twice, and the repeat comes right after its first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from random import random
from typing import Any, TypeVar

import structlog
from msgspec.structs import replace

from app import metrics
from app.clock import now_ms
from app.dispatch.shared import POLL, Shared
from app.events import KINDS
from app.relay import Target, label
from app.settle import backoff
from app.store import leases
from app.store import relay as relay_store
from app.store.dialect import Transaction
from app.store.relay import SEEN
from app.store.relay import Waiting as Event
from providers.kit.base import Send, Unreachable

T = TypeVar("T")

log = structlog.get_logger()

AT_ONCE = 64
"""Kinds of events that one target is sent at the same time, beside those that WuKongIM is known to post."""
TRIES = 5
"""Refusals after which such a kind makes room for others that wait: half a minute with the default delays."""
READ, READ_BYTES = 50, 1 << 20
"""Events of a stream that are held in memory, and their bytes where there is more than one."""
LONGEST_DELAY = 30_000
"""Milliseconds between two attempts at the most: it is one request, and what waits behind it is long."""
LOOK_EVERY = 10.0
"""Seconds between two looks at whether more waits for a target than may."""
DROPPED_AT_ONCE = 100_000
CAUGHT_UP = 0.9
"""The share of `max_backlog` at which a target is no longer called too far behind."""
TIDY_EVERY = 60.0
TIDY_ROWS = 200
"""Rows that one transaction removes: webhooks wait for it, and it frees all pages of their bodies."""
PAUSE = 0.01
"""Seconds between two of these: whoever queues for the database meanwhile comes first."""
ABANDONED = 1_000
"""Kinds of events of a target that is gone that are dropped before it is looked at again."""
PATIENCE = 3.0
"""Seconds that requests under way get when the dispatcher stops; the time-out of a target may be longer."""


class Relay:
    """All targets of one dispatcher. Only one dispatcher works a target: it has the lease on it."""

    def __init__(self, shared: Shared, targets: Sequence[tuple[Target, Send]]) -> None:
        self._shared = shared
        marks = Marks(shared)
        self._queues = [Queue(shared, marks, target, send) for target, send in targets]

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run until it is cancelled; `stop` comes after that."""
        return [*(queue.run() for queue in self._queues), self._bound(), self._tidy()]

    def poked(self) -> None:
        for queue in self._queues:
            queue.wake()

    def lease(self, connection: Transaction, until: int) -> list[str]:
        """Take the targets that nobody else works, and keep one's own: their names, for `hold` once it is durable."""
        return [queue.target.name for queue in self._queues if queue.lease(connection, until)]

    def hold(self, names: Collection[str], until: int) -> None:
        """Work these targets until then."""
        for queue in self._queues:
            if queue.target.name in names:
                queue.hold(until)

    async def stop(self) -> None:
        await asyncio.gather(*(queue.stop() for queue in self._queues))

    async def _bound(self) -> None:
        while True:
            for queue in self._queues:
                if queue.goes_on():
                    await queue.bound()
            await asyncio.sleep(LOOK_EVERY)

    async def _tidy(self) -> None:
        """Forget what was passed on a while ago, and what waits for targets that are configured no more."""
        while True:
            before = now_ms() - SEEN
            await self._drop_abandoned(before)
            await _in_steps(self._shared, partial(relay_store.forget, before=before, limit=TIDY_ROWS))
            await asyncio.sleep(TIDY_EVERY)

    async def _drop_abandoned(self, before: int) -> None:
        # Not what came since: another machine may have the target in its configuration already.
        names = [queue.target.name for queue in self._queues]

        def look(connection: Transaction) -> list[relay_store.Stream]:
            return relay_store.abandoned(connection, names, before, ABANDONED)

        while streams := await _read(self._shared, look, long=True):
            dropped = Counter[str]()
            for target, kind in streams:
                count = await _drop_old(self._shared, target, kind, before)
                dropped[target] += count
            for target, count in (+dropped).items():
                metrics.RELAY_DROPPED.labels(target, "", "removed").inc(count)
                log.warning("relay target is gone", action="relay", target=target, dropped=count)


class Marks:
    """Writes down what was passed on: for all streams together, whatever has gathered, in one transaction."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._ids: list[int] = []
        self._turn = asyncio.Lock()

    async def put(self, event_id: int) -> None:
        """Return once it is durable."""
        self._ids.append(event_id)
        async with self._turn:
            if event_id in self._ids:
                ids, self._ids = self._ids, []
                await _write(self._shared, lambda connection: relay_store.done(connection, ids, now_ms()))


async def _write(shared: Shared, function: Callable[[Transaction], T]) -> T:
    """Run a transaction, as soon as the database takes it: so what was answered is not sent again meanwhile."""

    def write() -> T:
        with shared.db.write() as connection:
            return function(connection)

    return await shared.write(write)


async def _read(shared: Shared, function: Callable[[Transaction], T], *, long: bool = False) -> T:
    """`long`: a million events that wait make it so, and nothing else of the dispatcher may wait for it."""

    def read() -> T:
        with shared.db.read() as connection:
            return function(connection)

    return await (shared.read_long(read) if long else shared.read(read))


async def _in_steps(shared: Shared, function: Callable[[Transaction], int]) -> int:
    """Repeat a transaction for up to TIDY_ROWS rows until it finds fewer; how many they were altogether."""
    total = count = await _write(shared, function)
    while count == TIDY_ROWS:
        await asyncio.sleep(PAUSE)
        count = await _write(shared, function)
        total += count
    return total


async def _drop_old(shared: Shared, target: str, kind: str, before: int) -> int:
    """Drop what of a stream came before then; how many."""
    return await _in_steps(shared, lambda connection: relay_store.drop(connection, target, kind, before, TIDY_ROWS))


class Queue:
    """What waits for one target. A stream for each kind of event lives as long as there is something in it.

    failing: the kinds that the target does not take, by their label: one line is logged for all made-up names.
    """

    def __init__(self, shared: Shared, marks: Marks, target: Target, send: Send) -> None:
        self.target = target
        self.send = send
        self.shared = shared
        self.marks = marks
        self.limits = replace(shared.limits, max_delay=min(shared.limits.max_delay, LONGEST_DELAY))
        self._part = f"relay/{target.name}"
        shared.wake[self._part] = asyncio.Event()
        self._held_until = 0
        self._stopping = asyncio.Event()
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._last = ""
        self._crowded = False
        self._counted = target.max_backlog + 1, 0
        self.failing: dict[str, set[str]] = {}
        self.full = False

    def wake(self) -> None:
        self.shared.wake[self._part].set()

    def lease(self, connection: Transaction, until: int) -> bool:
        return leases.take(connection, self._part, self.shared.owner, now_ms(), until)

    def hold(self, until: int) -> None:
        self._held_until = until
        self.wake()

    def goes_on(self) -> bool:
        """Whether this dispatcher may send to the target."""
        return not self._stopping.is_set() and now_ms() < self._held_until

    async def rest(self, milliseconds: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(milliseconds / 1000):
                await self._stopping.wait()

    async def run(self) -> None:
        while True:
            if self._failure:
                raise self._failure
            if self.goes_on():
                await self._start_streams()
            await self.shared.wait(self._part, POLL)

    async def bound(self) -> None:
        """Give the oldest events up where more wait than `max_backlog`: else a dead target fills the disk for all."""
        name, most = self.target.name, self.target.max_backlog
        waiting = await _read(self.shared, self._count, long=True)
        if waiting > most:
            dropped = await self._drop(min(waiting - most, DROPPED_AT_ONCE))
            if not self.full:
                told = "relay target is too far behind: its oldest events are dropped"
                log.error(told, action="relay", target=name, max_backlog=most, dropped=dropped)
            self.full = True
        elif self.full and waiting <= most * CAUGHT_UP:
            self.full = False
            log.info("relay target is not too far behind any more", action="relay", target=name, max_backlog=most)

    def _count(self, connection: Transaction) -> int:
        """How many events wait, or more: counted only where those that came since the last count could be too many."""
        newest = relay_store.newest(connection)
        waited, newest_then = self._counted
        if self.full or waited + max(0, newest - newest_then) > self.target.max_backlog:
            waited = relay_store.count(connection, self.target.name)
            self._counted = waited, newest
        return waited

    async def _drop(self, count: int) -> int:
        """Drop so many of the oldest events, in small portions; how many still waited."""
        name = self.target.name

        def look(connection: Transaction) -> dict[str, list[int]]:
            by_label = defaultdict[str, list[int]](list)
            for event_id, kind in relay_store.oldest(connection, name, count):
                by_label[label(kind)].append(event_id)
            return by_label

        total = 0
        for event, ids in (await _read(self.shared, look, long=True)).items():
            for start in range(0, len(ids), TIDY_ROWS):
                some = ids[start : start + TIDY_ROWS]
                dropped = await _write(self.shared, lambda connection, some=some: relay_store.give_up(connection, some))  # type: ignore[misc]
                metrics.RELAY_DROPPED.labels(name, event, "max_backlog").inc(dropped)
                total += dropped
                await asyncio.sleep(PAUSE)
        return total

    async def stop(self) -> None:
        """Begin nothing any more; a request under way may end."""
        self._stopping.set()
        streams = list(self._streams.values())
        if streams:
            await asyncio.wait(streams, timeout=PATIENCE)
        for stream in streams:
            stream.cancel()

    def makes_room(self, kind: str) -> bool:
        """Whether this kind must not keep its place: others wait for one, and somebody may have made them up."""
        return self._crowded and kind not in KINDS

    async def _start_streams(self) -> None:
        name, running = self.target.name, frozenset(self._streams)
        free = AT_ONCE - len(running - KINDS)

        def look(connection: Transaction) -> tuple[list[str], list[str]]:
            known = [kind for kind in KINDS - running if relay_store.waits(connection, name, kind)]
            return known, relay_store.kinds(connection, name, free + 1, self._last, running | KINDS)

        known, others = await _read(self.shared, look)
        self._crowded = len(others) > free
        self._last = others[:free][-1] if others[:free] else self._last
        for kind in (*known, *others[:free]):
            stream = asyncio.create_task(Stream(self, kind).run())
            self._streams[kind] = stream
            stream.add_done_callback(lambda ended, kind=kind: self._ended(kind, ended))  # type: ignore[misc]
        if not self._crowded:
            # Whatever waits is under way: of the rest nothing is left that could be taken.
            for kinds in self.failing.values():
                kinds.intersection_update(self._streams)

    def _ended(self, kind: str, stream: asyncio.Task[None]) -> None:
        del self._streams[kind]
        if not stream.cancelled():
            self._failure = self._failure or stream.exception()
        self.wake()  # something may have come since it looked last


class Stream:
    """Passes one kind of event on to one target, one after another, until nothing is left."""

    def __init__(self, queue: Queue, kind: str) -> None:
        self._queue = queue
        self._kind = kind
        self._labels = queue.target.name, label(kind)
        self._failing = queue.failing.setdefault(label(kind), set())
        self._failures = 0

    async def run(self) -> None:
        while self._queue.goes_on() and (events := await self._read()):
            for event in events:
                if not await self._pass_on(event):
                    await self._drop_old()
                    break
                await self._queue.marks.put(event.id)
                metrics.RELAYED.labels(*self._labels).inc()
            if self._queue.makes_room(self._kind):
                return

    async def _read(self) -> list[Event]:
        def head(connection: Transaction) -> list[Event]:
            return relay_store.head(connection, self._queue.target.name, self._kind, READ, READ_BYTES)

        return await _read(self._queue.shared, head)

    async def _pass_on(self, event: Event) -> bool:
        """Send until it is answered 200; False where it got too old for that, or must not go on."""
        while self._queue.goes_on() and event.received_at >= self._oldest():
            fault = await self._send(event)
            if not fault:
                self._taken()
                return True
            self._refused(fault)
            await self._queue.rest(backoff(self._failures, self._queue.limits, random()))
            if self._failures >= TRIES and self._queue.makes_room(self._kind):
                break
        return False

    def _taken(self) -> None:
        if self._kind in self._failing:
            self._failing.remove(self._kind)
            if not self._failing:
                self._log.info("relay target takes events again", attempts=self._failures + 1)
        self._failures = 0

    def _refused(self, fault: str) -> None:
        self._failures += 1
        metrics.RELAY_FAILURES.labels(*self._labels).inc()
        if not self._failing:
            self._log.warning("relay target takes no events", reason=fault)
        self._failing.add(self._kind)

    async def _send(self, event: Event) -> str:
        """What was wrong with the answer, "" for nothing."""
        try:
            answer = await self._queue.send(self._queue.target.request(self._kind, event.body))
        except Unreachable as error:
            return str(error)
        return "" if answer.status == 200 else f"status {answer.status}"

    async def _drop_old(self) -> None:
        dropped = await _drop_old(self._queue.shared, self._queue.target.name, self._kind, self._oldest())
        if dropped:
            metrics.RELAY_DROPPED.labels(*self._labels, "max_age").inc(dropped)
            self._log.error("events too old to be relayed", dropped=dropped)

    def _oldest(self) -> int:
        return now_ms() - self._queue.target.max_age

    @property
    def _log(self) -> Any:
        return log.bind(action="relay", target=self._queue.target.name, kind=self._labels[1])

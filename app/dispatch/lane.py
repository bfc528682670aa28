"""One lane a provider: its queue, its pushes under way, its pauses. No lane waits for another."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from app import settle
from app.clock import now_ms
from app.dispatch.work import Job
from app.settle import Limits, Pause, Settled, TokenGuard
from providers.kit import base
from providers.kit.http import Client
from providers.kit.text import push_id

log = structlog.get_logger()

LOCAL_CAPACITY = 64
"""Pushes at once to a provider that needs no network."""
QUEUE = 4
"""The queue holds this many times what can be under way, and LEAST at the least."""
LEAST = 2_000
SLICE = 500
"""Recipients that are planned together, and so jobs that may come at once."""
STUCK = 0.25
"""Seconds without an answer after which a lane is not waited for."""
FLOW = 1.0
"""Seconds: a full queue that will be empty sooner is waited for, any other overflows into the database."""
SMALLER_BUDGET = 2_048
"""Bytes to cut a push to that the vendor found too large."""
RECONNECT_EVERY = 1.0


@dataclass(slots=True)
class Counts:
    """Since this process started. `seconds`: what the answers of the vendor took together."""

    answers: int = 0
    seconds: float = 0.0


OnSettled = Callable[[Job, Settled], None]


class Lane:
    """Sends the jobs of one provider, and hands each with its decision to `on_settled`.

    on_room: called when a queue that was full has room again.
    """

    def __init__(
        self, provider: base.Provider, limits: Limits, on_settled: OnSettled, on_room: Callable[[], None]
    ) -> None:
        self.provider = provider
        self.counts = Counts()
        self.pause: Pause | None = None
        self.probing = False
        self._limits = limits
        self._on_settled = on_settled
        self._on_room = on_room
        self._guard = TokenGuard()
        self._doubting = False
        self._client = Client(provider.transport) if provider.transport is not None else None
        self._send: base.Send = self._client.send if self._client else _required(provider)
        self.capacity = self._client.capacity if self._client else LOCAL_CAPACITY
        self._most = max(self.capacity * QUEUE, LEAST)
        self._queue: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = 0
        self._generation = 0
        self._reconnected_at = 0.0
        self._rate = float("inf")  # nothing is known to be slow yet
        self._progress_at = 0.0
        self._rate_from = time.monotonic()
        self._rate_count = 0
        self._stopping = False

    @property
    def queued(self) -> int:
        return len(self._queue) + len(self._bulk)

    @property
    def inflight(self) -> int:
        return self._running

    def room(self, now: int) -> int:
        """How many more jobs this lane takes now; one while it tries whether a pause is over."""
        if self.pause is not None:
            if now < self.pause.until:
                return 0
            return 1 - self.queued - self._running
        return self._most - self.queued - self._running

    def worth_waiting(self, now: int) -> bool:
        """Whether this lane is full, but will have room so soon that nothing need overflow."""
        if self.pause is not None or self.room(now) >= SLICE:
            return False
        return time.monotonic() - self._progress_at < STUCK and self.queued < self._rate * FLOW

    def submit(self, jobs: Iterable[Job], now: int) -> None:
        """Take jobs, as many as there was `room` for."""
        if self.pause is not None and now >= self.pause.until:
            self.probing = True
        before = self.queued
        for job in jobs:
            (self._bulk if job.bulk else self._queue).append(job)
        if not self._running:
            self._progress_at = time.monotonic()
        limit = 1 if self.probing else self.capacity
        for _ in range(min(limit - self._running, self.queued - before)):
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                await self._deliver(job)
                self._measure()
        finally:
            # Not when the task is seen to be done, a turn of the loop later: `submit` may come in between.
            self._running -= 1

    def _next(self) -> Job | None:
        """Single messages go before those of large groups, save every eighth time."""
        if self._stopping:
            return None
        self._turn += 1
        first, second = (self._bulk, self._queue) if self._turn % 8 == 0 else (self._queue, self._bulk)
        if first:
            return first.popleft()
        return second.popleft() if second else None

    def _measure(self) -> None:
        self._rate_count += 1
        self._progress_at = now = time.monotonic()
        if now - self._rate_from >= STUCK:
            self._rate = self._rate_count / (now - self._rate_from)
            self._rate_from, self._rate_count = now, 0
        if self.queued + self._running == self._most - SLICE:  # once, as room for a slice comes about
            self._on_room()

    async def _deliver(self, job: Job) -> None:
        started = time.monotonic()
        try:
            outcome = await self._try(job)
            if type(outcome) is not base.Delivered:
                outcome = await self._second_try(job, outcome)
        except Exception:
            # A fault of ours in one push must end neither this lane nor the push.
            log.exception(
                "push failed", action="deliver", provider=self.provider.name, message_id=job.notice.message_id
            )
            outcome = base.Retry("internal error")
        self.counts.answers += 1
        self.counts.seconds += time.monotonic() - started
        now = now_ms()
        outcome = self._doubt(outcome, now)
        if self.probing and not isinstance(outcome, base.Retry | base.Throttled | base.Misconfigured):
            self._resume()
        job.attempts += 1
        decision = settle.decide(
            outcome,
            attempts=job.attempts,
            first_at=job.first_at,
            registered_at=job.device.registered_at,
            limits=self._limits,
            now=now,
            jitter=random.random(),
        )
        if type(decision) is Pause:
            job.attempts -= 1
            self._pause(decision)
        self._on_settled(job, decision)

    def _doubt(self, outcome: base.Outcome, now: int) -> base.Outcome:
        """A refused token is believed unless most are refused at once, and then not before one was taken again."""
        if not isinstance(outcome, base.TokenInvalid) or not outcome.suspect:
            self._guard.note(now, False)
            return outcome
        if self._guard.note(now, True) or self._doubting:
            self._doubting = True
            return base.Misconfigured(f"most tokens are refused ({outcome.reason}): topic, environment or project?")
        return outcome

    async def _second_try(self, job: Job, outcome: base.Outcome) -> base.Outcome:
        """Where the first showed what to do better: another credential, or a smaller push."""
        if isinstance(outcome, base.Misconfigured) and outcome.renew:
            return await self._try(job)
        if isinstance(outcome, base.TooLarge):
            job.prepared = self.provider.prepare(job.notice, SMALLER_BUDGET)
            return await self._try(job)
        return outcome

    async def _try(self, job: Job) -> base.Outcome:
        provider, generation = self.provider, self._generation
        credential = provider.credential
        try:
            if credential is not None:
                await credential.ready()
            device = job.device
            target = base.Target(
                device.device_id, device.token, push_id(job.notice.message_id, f"{device.uid}\n{device.device_id}")
            )
            request = provider.request(job.prepared, target)
            outcome = provider.read(await self._send(request))
        except base.Unreachable as error:
            return base.Retry(str(error) or "unreachable", after=provider.soonest)
        except base.CredentialRefused as error:
            return base.Misconfigured(str(error))
        if isinstance(outcome, base.Misconfigured) and outcome.renew:
            if credential is not None:
                credential.refuse(request.headers.get("authorization", ""))
            await self._reconnect(generation)
        elif isinstance(outcome, base.Retry) and outcome.reconnect:
            await self._reconnect(generation)
        return outcome

    async def _reconnect(self, generation: int) -> None:
        """New connections, once for all the pushes that the old ones failed."""
        now = time.monotonic()
        if self._client and generation == self._generation and now - self._reconnected_at > RECONNECT_EVERY:
            self._generation += 1
            self._reconnected_at = now
            await self._client.reconnect()

    def _pause(self, pause: Pause) -> None:
        first = self.pause is None or self.probing
        self.probing = False
        if self.pause is None or pause.until > self.pause.until:
            self.pause = pause
        if first:
            level = log.error if pause.broken else log.warning
            level("provider paused", action="pause", provider=self.provider.name, reason=pause.reason)
        waiting = [*self._queue, *self._bulk]
        self._queue.clear()
        self._bulk.clear()
        for job in waiting:
            self._on_settled(job, self.pause)

    def _resume(self) -> None:
        log.info("provider works again", action="resume", provider=self.provider.name)
        self.pause = None
        self.probing = False
        self._doubting = False
        self._on_room()

    def overflow(self, job: Job, now: int) -> None:
        """A job that there is no room for waits in the database."""
        pause = self.pause if self.pause is not None else Pause(now + 250, "provider busy", False)
        self._on_settled(job, pause)

    async def stop(self, grace: float) -> None:
        """Start nothing more, and wait up to `grace` seconds for what is under way."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        for task in list(self._tasks):
            task.cancel()
        if self._client:
            await self._client.close()


def _required(provider: base.Provider) -> base.Send:
    if provider.local is None:
        raise ValueError(f"provider {provider.name} has neither a transport nor a way of its own")
    return provider.local

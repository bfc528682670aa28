"""Sends the pushes of one provider: what waits for it, what is under way, its pauses. No sender waits for another."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog

from app import settle
from app.clock import now_ms
from app.dispatch.turns import Waiting
from app.dispatch.work import FAULT, Job
from app.model import Lane
from app.settle import Dead, Limits, Pause, RetryAt, Settled, TokenGuard, Verdict
from providers.kit import base
from providers.kit.http import Client
from providers.kit.text import push_id

log = structlog.get_logger()

LOCAL_CAPACITY = 64
"""Pushes at once to a provider that needs no network."""
QUEUE = 4
"""The queue of a lane holds this many times what can be under way, and LEAST at the least."""
LEAST = 2_000
SLICE = 500
"""Recipients that are planned together, and so jobs that may come at once."""
STUCK = 0.25
"""Seconds without an answer after which a sender is not waited for."""
FLOW = 1.0
"""Seconds: a full queue that will be empty sooner is waited for, any other overflows into the database."""
SMALLER_BUDGET = 2_048
"""Bytes to cut a push to that the vendor found too large."""
RECONNECT_EVERY = 1.0
KEEP_ORDER = 5_000
"""Milliseconds that a push waits at the most for an earlier one to its device and conversation that is tried again."""
ORDERED_TRIES = 3
"""Failures of a push after which later ones go ahead all the same: one that never succeeds holds nothing up."""
REMEMBERED = 10_000
"""Pushes that are tried again which later ones are kept behind."""

FAULT_TRIES = 5
_FAULTY = base.Retry(FAULT, device=True)

Order = tuple[str, str, int]
OnSettled = Callable[[Job, Settled], None]


@dataclass(slots=True)
class Answers:
    """How long the vendor took, since this process started. `counts`: answers up to each bound, and those beyond."""

    BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

    count: int = 0
    seconds: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(Answers.BOUNDS) + 1))

    def note(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.counts[bisect_left(self.BOUNDS, seconds)] += 1


class Sender:
    """Sends jobs, and hands each with its decision to `on_settled`.

    on_room: called when a queue that was full has room again. on_alarm: called with the provider, the reason of
    refusals that are not to be believed, and since when (UNIX milliseconds).
    """

    def __init__(
        self,
        provider: base.Provider,
        limits: Limits,
        on_settled: OnSettled,
        on_room: Callable[[], None],
        on_alarm: Callable[[str, str, int], None] = lambda *_: None,
    ) -> None:
        self.provider = provider
        self.answers = Answers()
        self.pause: Pause | None = None
        self.paused_since = 0
        self.probing = False
        self._limits = limits
        self._on_settled = on_settled
        self._on_room = on_room
        self._on_alarm = on_alarm
        self._guard = TokenGuard()
        self._client = Client(provider.transport) if provider.transport is not None else None
        self._send: base.Send = self._client.send if self._client else _required(provider)
        self.capacity = self._client.capacity if self._client else LOCAL_CAPACITY
        self._most = max(self.capacity * QUEUE, LEAST)
        self._waiting = Waiting()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._order: dict[Order, list[Job] | None] = {}
        self._parked = 0
        self._later: dict[Order, int] = {}
        self._failing: set[tuple[str, str]] = set()
        self._failed_at = 0.0
        self._pauses = 0
        self._ramp: tuple[int, int] | None = None
        self._generation = 0
        self._reconnected_at = 0.0
        self._wanting: set[Lane] = set()
        self._rate = float("inf")  # nothing is known to be slow yet
        self._progress_at = 0.0
        self._rate_from = time.monotonic()
        self._rate_count = 0
        self._stopping = False

    @property
    def queued(self) -> int:
        return len(self._waiting) + self._parked

    @property
    def doubts_tokens(self) -> bool:
        """Whether refusals of tokens are not believed, since most are refused."""
        return self._guard.alarmed

    @property
    def inflight(self) -> int:
        return self._running

    def room(self, lane: Lane, now: int) -> int:
        """How many more jobs of a lane are taken now; one in all while it tries whether a pause is over."""
        if self.pause is not None:
            if now < self.pause.until:
                return 0
            return 1 - self.queued - self._running
        return self._most - len(self._waiting.lanes[lane]) - self._parked - self._running

    def worth_waiting(self, lane: Lane, now: int) -> bool:
        """Whether there is no room now, but will be so soon that nothing need overflow."""
        if self.pause is not None or self.room(lane, now) >= SLICE:
            return False
        flows = time.monotonic() - self._progress_at < STUCK
        if flows and len(self._waiting.lanes[lane]) < self._rate * FLOW:
            self._wanting.add(lane)
            return True
        return False

    def submit(self, jobs: Iterable[Job], now: int) -> None:
        """Take jobs, as many of each lane as there was `room` for."""
        if self.pause is not None and now >= self.pause.until:
            self.probing = True
        if not self._running:
            self._progress_at = time.monotonic()
        for job in jobs:
            self._waiting.put(job)
        self._start(now)

    def _start(self, now: int) -> None:
        for _ in range(min(self._limit(now) - self._running, len(self._waiting))):
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _limit(self, now: int) -> int:
        """Pushes at once: one for a probe, then more and more until the ramp after the pause is over."""
        if self.probing:
            return 1
        if self._ramp is None:
            return self.capacity
        begun, length = self._ramp
        if now >= begun + length:
            self._ramp = None
            return self.capacity
        return max(1, self.capacity * (now - begun) // length)

    async def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                await self._deliver(job)
                self._measure()
                if self._ramp is not None:
                    self._start(now_ms())
        finally:
            # Not when the task is seen to be done, a turn of the loop later: `submit` may come in between.
            self._running -= 1

    def _next(self) -> Job | None:
        """The next job that overtakes none to the same device in the same conversation."""
        while not self._stopping and (job := self._waiting.take()) is not None:
            device = job.device
            order = job.order = device.uid, device.device_id, job.parsed.channel
            if order in self._order:
                self._park(order, job)
            elif self._later and (until := self._later.pop(order, 0)) and self._put_off(job, until):
                continue
            else:
                self._order[order] = None
                return job
        return None

    def _park(self, order: Order, job: Job) -> None:
        """Keep a job until the one before it is settled."""
        behind = self._order[order]
        if behind is None:
            self._order[order] = [job]
        else:
            behind.append(job)
        self._parked += 1

    def _put_off(self, job: Job, until: int) -> bool:
        """Have a job wait behind an earlier one that is tried again at `until`; False where that time has come."""
        if now_ms() > until or job.attempts:
            return False
        self._later[job.order] = until
        self._on_settled(job, Pause(until + 1, "after an earlier message", False))
        return True

    def _unpark(self, job: Job, decision: Settled) -> None:
        """A job is settled: those that waited behind it come next, or wait with it for its next attempt."""
        behind = self._order.pop(job.order)
        if type(decision) is RetryAt and self._is_soon(job, decision):
            self._later[job.order] = decision.at
        if behind is None:
            return
        self._parked -= len(behind)
        if self.pause is not None:
            for one in behind:
                self._on_settled(one, self.pause)
            return
        for one in reversed(behind):
            self._waiting.put_first(one)

    def _is_soon(self, job: Job, again: RetryAt) -> bool:
        """Whether others are kept behind a push that is tried again, so that they come in their order."""
        soon = again.at <= now_ms() + KEEP_ORDER and job.attempts <= ORDERED_TRIES
        return soon and len(self._later) < REMEMBERED

    def _measure(self) -> None:
        self._rate_count += 1
        self._progress_at = now = time.monotonic()
        if now - self._rate_from >= STUCK:
            self._rate = self._rate_count / (now - self._rate_from)
            self._rate_from, self._rate_count = now, 0
        if self._wanting and any(self.room(lane, 0) >= SLICE for lane in self._wanting):
            self._wanting.clear()
            self._on_room()

    async def _deliver(self, job: Job) -> None:
        started = time.monotonic()
        try:
            outcome = await self._try(job)
            if type(outcome) is not base.Delivered:
                outcome = await self._second_try(job, outcome)
        except Exception:
            # A fault of ours in one push must end neither this sender nor the push.
            log.exception(
                "push failed", action="deliver", provider=self.provider.name, message_id=job.notice.message_id
            )
            outcome = _FAULTY
        self.answers.note(time.monotonic() - started)
        decision = self._decide(job, outcome, now_ms(), started)
        self._unpark(job, decision)
        self._on_settled(job, decision)

    def _decide(self, job: Job, outcome: base.Outcome, now: int, started: float) -> Settled:
        verdict = Verdict.BELIEVED
        if outcome == _FAULTY and job.attempts + 1 >= FAULT_TRIES:
            job.attempts += 1
            return Dead(FAULT)
        if type(outcome) is base.Delivered:
            self._guard.take(now)
        elif isinstance(outcome, base.TokenInvalid) and outcome.suspect:
            outcome, verdict = self._doubt(job, outcome, now)
        failing = self._fails(job, outcome, started)
        if self.probing and not isinstance(outcome, base.Retry | base.Throttled | base.Misconfigured):
            self._resume(now)
        job.attempts += 1
        decision = settle.decide(
            outcome,
            attempts=job.attempts,
            first_at=job.first_at,
            registered_at=job.device.registered_at,
            limits=self._limits,
            now=now,
            jitter=random.random(),
            failing=failing,
            pauses=self._pauses if self.probing else 0,
            verdict=verdict,
        )
        if type(decision) is Pause:
            job.attempts -= 1
            self._pause(decision, now)
        return decision

    def _fails(self, job: Job, outcome: base.Outcome, started: float) -> bool:
        """Whether this failure is the provider's as a whole, and not this push's alone."""
        if not isinstance(outcome, base.Retry):
            if self._failing:
                self._failing.clear()
            return False
        if outcome.device:
            return self.probing
        if started >= self._failed_at:
            # What was under way together fails together, when one connection is lost: that is one failure.
            self._failing.add((job.device.uid, job.device.device_id))
            self._failed_at = time.monotonic()
        return self.pause is not None or len(self._failing) > settle.OUTAGE_AFTER

    def _doubt(self, job: Job, outcome: base.TokenInvalid, now: int) -> tuple[base.Outcome, Verdict]:
        alarmed = self._guard.alarmed
        verdict = self._guard.refuse(f"{job.device.uid}\n{job.device.device_id}", now)
        if verdict is not Verdict.ALARM:
            return outcome, verdict
        if not alarmed:
            self._on_alarm(self.provider.name, outcome.reason, now - TokenGuard.WINDOW)
        reason = f"most tokens are refused ({outcome.reason}): topic, environment or project?"
        return base.Misconfigured(reason), verdict

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

    def _pause(self, pause: Pause, now: int) -> None:
        """Rest, or rest on: what was under way when it began does not make it longer, a probe that fails does."""
        before = self.pause
        if before is None:
            self.paused_since = now
        if before is None or self.probing:
            self._pauses += 1
        if before is None or self.probing or pause.until > before.until:
            self.pause = pause
        else:
            pause = before
        if before is None or (self.probing and pause.reason != before.reason):
            level = log.error if pause.broken else log.warning
            level("provider paused", action="pause", provider=self.provider.name, reason=pause.reason)
        self.probing = False
        for job in list(self._waiting.drain()):
            self._on_settled(job, pause)

    def _resume(self, now: int) -> None:
        rested = now - self.paused_since
        log.info("provider works again", action="resume", provider=self.provider.name, seconds=round(rested / 1000, 1))
        self.pause = None
        self.probing = False
        self._pauses = 0
        self._ramp = (now, max(1, min(rested, int(self.provider.ramp * 1000))))
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

"""Sends the pushes of one provider: what waits for it, and what is under way. No sender waits for another."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from app import settle
from app.clock import now_ms
from app.dispatch.orders import Orders, Place
from app.dispatch.pace import WAITED, Pace
from app.dispatch.pauses import Pauses
from app.dispatch.turns import Waiting
from app.dispatch.work import FAULT, Job
from app.model import Lane
from app.settle import Dead, Limits, Pause, RetryAt, Settled, TokenGuard, Verdict, Wait
from providers.kit import base
from providers.kit.http import Client
from providers.kit.text import push_id

log = structlog.get_logger()

LOCAL_CAPACITY = 64
"""Pushes at once to a provider that needs no network."""
QUEUE = 4
"""The queue of a lane holds this many times what can be under way, and LEAST at the least."""
LEAST = 2_000
SLICE = 300
"""Recipients that are planned together, and so jobs that may come at once."""
STUCK = 0.25
"""Seconds without an answer after which a sender is not waited for."""
FLOW = 1.0
"""Seconds: a full queue that will be empty sooner is waited for, any other overflows into the database."""
SMALLER_BUDGET = 2_048
"""Bytes to cut a push to that the vendor found too large."""
RECONNECT_EVERY = 1.0
AFTER = "after an earlier message"
BUSY = 250
"""Milliseconds that a push waits in the database that there was no room for."""

FAULT_TRIES = 5
_FAULTY = base.Retry(FAULT, device=True)

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

    on_room: called when a queue that was full has room again. on_alarm: called with the provider, the reasons of
    refusals that are not to be believed, and since when (UNIX milliseconds).
    """

    def __init__(
        self,
        provider: base.Provider,
        limits: Limits,
        on_settled: OnSettled,
        on_room: Callable[[], None],
        on_alarm: Callable[[str, Sequence[str], int], None] = lambda *_: None,
    ) -> None:
        self.provider = provider
        self.answers = Answers()
        self._limits = limits
        self._on_settled = on_settled
        self._on_room = on_room
        self._on_alarm = on_alarm
        self._guard = TokenGuard()
        self._pace = Pace()
        self._waited_at = float("-inf")
        self._pauses = Pauses(provider.name, int(provider.ramp * 1000))
        self._client = Client(provider.transport) if provider.transport is not None else None
        self._send: base.Send = self._client.send if self._client else _required(provider)
        self.capacity = self._client.capacity if self._client else LOCAL_CAPACITY
        self._most = max(self.capacity * QUEUE, LEAST)
        self._waiting = Waiting()
        self._running = 0
        self._patient = 0  # of what is running, all that nobody waits for
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders = Orders()
        self._generation = 0
        self._reconnected_at = 0.0
        self._wanting: set[Lane] = set()
        self._rate = float("inf")  # nothing is known to be slow yet
        self._progress_at = 0.0
        self._rate_from = time.monotonic()
        self._rate_count = 0
        self._stopping = False

    @property
    def pause(self) -> Pause | None:
        return self._pauses.current

    @property
    def paused_since(self) -> int:
        return self._pauses.since

    @property
    def queued(self) -> int:
        return len(self._waiting) + sum(self._orders.behind.values())

    @property
    def doubts_tokens(self) -> bool:
        """Whether refusals of tokens are not believed, since most are refused."""
        return self._guard.alarmed

    @property
    def inflight(self) -> int:
        return self._running

    def room(self, lane: Lane, now: int) -> int:
        """How many more jobs of a lane are taken now; one in all while it tries whether a pause is over."""
        if (pause := self._pauses.current) is not None:
            if now < pause.until:
                return 0
            return 1 - len(self._waiting) - self._running
        return self._most - len(self._waiting.lanes[lane]) - self._orders.behind[lane] - self._running

    def worth_waiting(self, lane: Lane, now: int) -> bool:
        """Whether there is no room now, but will be so soon that nothing need overflow."""
        if self.pause is not None or self.room(lane, now) >= SLICE:
            return False
        flows = time.monotonic() - self._progress_at < STUCK
        if flows and len(self._waiting.lanes[lane]) + self._orders.behind[lane] < self._rate * FLOW:
            self._wanting.add(lane)
            return True
        return False

    def submit(self, jobs: Iterable[Job], now: int) -> None:
        """Take jobs; those that there is no room for, or that would overtake what waits there, go to the database."""
        if not self._running:
            self._progress_at = time.monotonic()
        for job in jobs:
            if job.lane is Lane.NOW:
                self._waited_at = time.monotonic()
            if self.room(job.lane, now) <= 0:
                self._put_off(job, now + BUSY, "provider busy", now)
                continue
            place = self._orders.enter(job, now)
            if place is Place.FIRST:
                self._waiting.put(job)
                self._pauses.probing = self._pauses.current is not None
            elif place is not Place.BEHIND:
                self._put_off(job, self._orders.later(job, now), AFTER, now)
        self._start(now)

    def is_waited_for(self, at: float) -> bool:
        """Whether, by that time (monotonic), it has just been given what somebody waits for."""
        return at <= self._waited_at + WAITED

    def keep_pace(self, crowded: bool, at: float) -> None:
        """How this process is doing: see `Pace.note`."""
        self._pace.note(crowded, self.answers.count, at)
        self._start(now_ms())

    def _put_off(self, job: Job, at: int, reason: str, now: int) -> None:
        """Have a job wait in the database until `at`, or until the pause is over, or behind others of its order."""
        if (pause := self._pauses.current) is not None:
            at, reason = max(at, pause.until), pause.reason
        self._tell(job, Wait(self._orders.store(job, at, now), reason))

    def _tell(self, job: Job, decision: Settled) -> None:
        try:
            self._on_settled(job, decision)
        except Exception:
            # It must not cost those that wait behind it.
            log.exception("outcome lost", action="settle", provider=self.provider.name, event_id=job.parsed.event_id)

    def _start(self, now: int) -> None:
        urgent = len(self._waiting.lanes[Lane.NOW])
        paced = max(0, self._pace.limit(self.capacity) - self._patient)
        wanted = urgent + min(len(self._waiting) - urgent, paced)
        for _ in range(min(self._pauses.limit(self.capacity, now) - self._running, wanted)):
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while (job := self._next()) is not None:
                can_wait = job.lane is not Lane.NOW
                self._patient += can_wait
                try:
                    await self._deliver(job)
                finally:
                    self._patient -= can_wait
                self._measure()
                if self._pauses.ramping:
                    self._start(now_ms())
        finally:
            # Not when the task is seen to be done, a turn of the loop later: `submit` may come in between.
            self._running -= 1

    def _next(self) -> Job | None:
        if self._stopping:
            return None
        return self._waiting.take(urgent=self._patient >= self._pace.limit(self.capacity))

    def _go_on(self, job: Job, decision: Settled, now: int) -> None:
        """A job is settled: the one behind it comes next, or all of them wait with it in the database."""
        if type(decision) is RetryAt and self._orders.keeps(job, decision.at, now):
            at = self._orders.store(job, decision.at, now)
        elif self._pauses.current is not None:
            at = now
        else:
            if (following := self._orders.next(job)) is not None:
                self._waiting.put_first(following)
            return
        self._put_off_behind(job, at, now)
        if self._pauses.current is not None:
            for one in self._waiting.drain():
                self._put_off(one, now, AFTER, now)
                self._put_off_behind(one, now, now)

    def _put_off_behind(self, job: Job, at: int, now: int) -> None:
        for one in self._orders.end(job):
            self._put_off(one, at, AFTER, now)

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
            outcome = await self._outcome(job)
            self.answers.note(time.monotonic() - started)
            now = now_ms()
            decision = self._decide(job, outcome, now, started)
        except Exception:
            # A fault of ours in one push must end neither this sender nor the push.
            log.exception(
                "push failed", action="deliver", provider=self.provider.name, message_id=job.notice.message_id
            )
            now = now_ms()
            decision = self._decide(job, _FAULTY, now, started)
        self._tell(job, decision)
        self._go_on(job, decision, now)

    async def _outcome(self, job: Job) -> base.Outcome:
        outcome = await self._try(job)
        if type(outcome) is base.Delivered:
            return outcome
        outcome = await self._second_try(job, outcome)
        if not isinstance(outcome, base.Outcome):
            raise TypeError(f"provider {self.provider.name} read an answer as {type(outcome).__name__}, not an Outcome")
        return outcome

    def _decide(self, job: Job, outcome: base.Outcome, now: int, started: float) -> Settled:
        verdict, pauses = Verdict.BELIEVED, self._pauses
        if outcome == _FAULTY and job.attempts + 1 >= FAULT_TRIES:
            job.attempts += 1
            return Dead(FAULT)
        if type(outcome) is base.Delivered:
            self._guard.take(now)
        elif isinstance(outcome, base.TokenInvalid) and outcome.suspect:
            outcome, verdict = self._doubt(job, outcome, now)
        if pauses.probing and _is_well(outcome):
            pauses.end(now)
            self._on_room()
        failing = pauses.fails(job, outcome, started, time.monotonic())
        decision = settle.decide(
            outcome,
            attempts=job.attempts + 1,
            first_at=job.first_at,
            registered_at=job.device.registered_at,
            limits=self._limits,
            now=now,
            jitter=random.random(),
            failing=failing,
            pauses=pauses.in_a_row if pauses.probing else 0,
            verdict=verdict,
        )
        if isinstance(decision, Pause):
            until = pauses.begin(decision, now).until
            return Wait(self._orders.store(job, until, now), decision.reason)
        job.attempts += 1
        return decision

    def _doubt(self, job: Job, outcome: base.TokenInvalid, now: int) -> tuple[base.Outcome, Verdict]:
        alarmed = self._guard.alarmed
        verdict = self._guard.refuse(f"{job.device.uid}\n{job.device.device_id}", now, outcome.reason)
        if verdict is not Verdict.ALARM:
            return outcome, verdict
        if not alarmed:
            self._on_alarm(self.provider.name, self._guard.reasons(now), now - TokenGuard.WINDOW)
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
        elif isinstance(outcome, base.Retry | base.Throttled) and outcome.reconnect:
            await self._reconnect(generation)
        return outcome

    async def _reconnect(self, generation: int) -> None:
        """New connections, once for all the pushes that the old ones failed."""
        now = time.monotonic()
        if self._client and generation == self._generation and now - self._reconnected_at > RECONNECT_EVERY:
            self._generation += 1
            self._reconnected_at = now
            await self._client.reconnect()

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


def _is_well(outcome: base.Outcome) -> bool:
    """Whether a vendor that answers so takes pushes again; what it says of one device is an answer too."""
    if isinstance(outcome, base.Retry):
        return outcome.device and outcome != _FAULTY
    return not isinstance(outcome, base.Throttled | base.Misconfigured)

"""Pushes that wait in the database: for another try, for room, or for what becomes of a user who looks online."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import product

import structlog
from msgspec.structs import replace

from app import plan, presence
from app.clock import now_ms
from app.dispatch import settling, steps, taking
from app.dispatch.ask import Ask
from app.dispatch.settler import Settler
from app.dispatch.shared import LEASE, POLL, Shared
from app.dispatch.work import FAULT, Known, Parsed, parse
from app.model import Connections, Lane, Outcome, Recipients
from app.store import deliveries, inbox
from app.store.rows import Delivery, Event

log = structlog.get_logger()

MOST = 1_000
"""Rows taken up at once."""
PARSED = 512
"""Events kept parsed for pushes that are taken up again."""
LOADED = 32
"""Events read at once: each may have some hundred kilobytes."""
PATIENCE = 2_500
"""Milliseconds that a row whose hold is over waits for an answer; the question has a time-out of two seconds."""
REMEMBERED, FORGOTTEN_EVERY = 600_000, 10_000
"""Milliseconds for which it is remembered who was asked about, and after which it is looked who is to be forgotten."""
PUT_OFF = 30_000
"""Milliseconds for which nothing but a pause puts a push off that was not sent yet."""
HASTENED = 200
"""Rows looked at in one transaction."""
_NO_RECIPIENTS = Recipients(())


class Waiting:
    """Takes rows up again when they are due. `ask`: WuKongIM itself, where it may be asked who is online."""

    def __init__(self, shared: Shared, settler: Settler, ask: Ask | None) -> None:
        self._shared = shared
        self._settler = settler
        self._ask = ask
        self._parsed: OrderedDict[int, Parsed] = OrderedDict()
        self._asking: set[asyncio.Task[None]] = set()
        self._questions: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._forgets_at = 0

    async def run_due(self) -> None:
        await self._hasten()
        while True:
            worked = False
            for (name, sender), lane in product(self._shared.senders.items(), Lane):
                room = min(MOST, sender.room(lane, now_ms()))
                if room > 0:
                    worked |= await self._take_up(name, lane, room)
            if not worked:
                await self._shared.wait("due", await self._until_due(self._shared.senders))

    async def _hasten(self) -> None:
        """What an earlier process put off by a pause of its own is due now: whoever mends a setting reloads for it."""

        def write(provider: str, lane: Lane, after: tuple[int, int]) -> tuple[int, int]:
            with self._shared.db.write() as connection:
                return deliveries.hasten(connection, provider, lane, after, now_ms(), HASTENED)

        for provider, lane in product(self._shared.senders, Lane):
            place = (now_ms() + PUT_OFF, 0)
            while (following := await self._shared.write(partial(write, provider, lane, place))) != place:
                place = following

    async def _until_due(self, providers: Iterable[str]) -> float:
        def read() -> int | None:
            with self._shared.db.read() as connection:
                return deliveries.next_due(connection, providers, self._shared.owner)

        due = await self._shared.read(read)
        return POLL if due is None else min(POLL, max(0.05, (due - now_ms()) / 1000))

    async def _take_up(self, provider: str, lane: Lane, limit: int) -> bool:
        rows = await self._claim(provider, lane, limit)
        if not rows:
            return False
        await self._each(rows, self._send_again)
        return True

    async def _each(self, rows: Sequence[Delivery], work: Callable[[Sequence[Delivery]], Awaitable[None]]) -> None:
        async def give_up(row: Delivery) -> None:
            self._settler.add(steps.ended(row, Outcome.DEAD, FAULT, now_ms(), row.event_id), row.event_id or 0)

        def tell(failed: Sequence[Delivery], error: Exception) -> None:
            log.error("waiting pushes failed", action="wait", ids=[row.id for row in failed], exc_info=error)

        await taking.each(rows, work, give_up, tell)

    async def _send_again(self, rows: Sequence[Delivery]) -> None:
        pairs = await self._with_events(rows)
        self._send(pairs, await self._look_up(pairs), now_ms())

    async def _look_up(self, pairs: Sequence[tuple[Delivery, Parsed]]) -> Known:
        batch = [(parsed, [row.uid]) for row, parsed in pairs]
        return await self._shared.read(lambda: steps.look_up(self._shared.db, batch, decided=False))

    def _send(self, pushes: Sequence[tuple[Delivery, Parsed]], known: Known, now: int) -> None:
        """Hand pushes that this dispatcher holds to their senders, and settle those that are past sending."""
        jobs, settled = steps.plan_due(pushes, known, self._shared.renderer(), self._shared.limits.max_age, now)
        for row in settled:
            self._settler.add(row, row.event_id or 0)
        self._shared.submit(jobs, now)

    async def _claim(self, provider: str, lane: Lane, limit: int) -> list[Delivery]:
        owner, start = self._shared.owner, taking.any_channel()

        def write() -> list[Delivery]:
            with self._shared.db.write() as connection:
                return deliveries.claim_due(connection, provider, lane, limit, owner, now_ms(), LEASE, start)

        def read() -> bool:
            with self._shared.db.read() as connection:
                due = deliveries.next_due(connection, [provider], owner, [lane])
                return due is not None and due <= now_ms()

        return await self._shared.write(write) if await self._shared.read(read) else []

    async def _with_events(self, rows: Sequence[Delivery]) -> list[tuple[Delivery, Parsed]]:
        """Each row with its message; rows whose event is gone get their last word."""
        wanted = {row.event_id for row in rows if row.event_id is not None}
        # By itself: while events are read, the other loop may push any of them out of what is kept.
        found = {event_id: self._parsed[event_id] for event_id in wanted if event_id in self._parsed}
        missing = [event_id for event_id in wanted if event_id not in found]
        for start in range(0, len(missing), LOADED):
            found |= await self._load(missing[start : start + LOADED])
        pairs = []
        for row in rows:
            parsed = found.get(row.event_id or 0)
            if parsed is None:
                self._settler.add(steps.ended(row, Outcome.DEAD, "content gone or unreadable", now_ms()), 0)
            else:
                pairs.append((row, parsed))
        return pairs

    async def _load(self, event_ids: Sequence[int]) -> dict[int, Parsed]:
        """These events as far as they can be read, which are kept for the next time too."""

        def read() -> dict[int, Event]:
            with self._shared.db.read() as connection:
                return inbox.load(connection, event_ids)

        loaded: dict[int, Parsed] = {}
        for event_id, event in (await self._shared.read(read)).items():
            try:
                loaded[event_id] = replace(parse(event), recipients=_NO_RECIPIENTS)
            except Exception as error:
                # It was read once before, so only another version of this program can bring this about.
                log.error("event unreadable", action="parse", event_id=event_id, error=type(error).__name__)
        self._parsed |= loaded
        while len(self._parsed) > PARSED:
            self._parsed.popitem(last=False)
        return loaded

    async def run_held(self) -> None:
        try:
            await self._take_up_held()
        finally:
            for question in self._asking:
                question.cancel()  # its answer would come when the database is closed

    async def _take_up_held(self) -> None:
        shared = self._shared
        while True:
            taken = await shared.write(
                lambda: taking.take_held(shared.db, MOST, shared.owner, LEASE, now_ms(), shared.rules)
            )
            taking.told(shared, taken)
            if taken.claimed:
                await self._each(taken.claimed, self._decide_held)
            elif not taken.more:
                await self._shared.wait("held", await self._until_due([""]))

    async def _decide_held(self, rows: Sequence[Delivery]) -> None:
        pairs = await self._with_events(rows)
        known = await self._look_up(pairs)
        now = now_ms()
        doubtful = {row.id: row for row, _ in pairs if self._must_ask(row, known.presence, now)}
        if doubtful:
            await self._ask_about(doubtful.values(), now)
            pairs = [(row, parsed) for row, parsed in pairs if row.id not in doubtful]
        asked = frozenset(row.id for row, _ in pairs if self._answered.get(row.uid, 0) >= self._first_look(row))
        free, settled = steps.plan_held(pairs, known, asked, self._shared.rules, now)
        for row in settled:
            self._settler.add(row, row.event_id or 0)
        if free:
            released = await self._shared.write(
                lambda: settling.release(self._shared.db, free, self._shared.owner, LEASE, now)
            )
            messages = {parsed.event_id: parsed for _, parsed, _ in free}
            self._send([(row, messages[row.event_id]) for row in released if row.event_id in messages], known, now)

    def _first_look(self, row: Delivery) -> int:
        return plan.first_look(row.first_at, self._shared.rules.policy)

    def _must_ask(self, row: Delivery, known: Mapping[str, Connections], now: int) -> bool:
        """Whether the server is to say about this user who looks online; each held row is asked about once."""
        first = self._first_look(row)
        if self._ask is None or self._ask.silent or now < first or self._questions.get(row.uid, 0) >= first:
            return False
        policy = self._shared.rules.policy
        looks = presence.looks(known.get(row.uid, {}), policy.suppress, policy.ttl, now)
        return looks is not presence.Looks.OFFLINE

    async def _ask_about(self, rows: Collection[Delivery], now: int) -> None:
        """Ask beside everything else. The rows wait for the answer unclaimed, so that an offline event frees them."""
        hold = self._shared.rules.policy.hold
        until = [replace(row, due_at=_later(row.first_at + hold, now)) for row in rows]
        await self._shared.write(
            lambda: settling.hold_on(self._shared.db, until, self._shared.owner, self._shared.rules, now_ms())
        )
        uids = {row.uid for row in rows}
        self._questions.update(dict.fromkeys(uids, now))
        task = asyncio.create_task(self._answer(sorted(uids), now))
        self._asking.add(task)
        task.add_done_callback(self._answered_or_failed)

    def _answered_or_failed(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("asking failed", action="ask", exc_info=error)

    async def _answer(self, uids: Sequence[str], asked_at: int) -> None:
        assert self._ask is not None
        answer = await self._ask(uids)
        now = now_ms()
        if answer is not None:
            await self._shared.write(lambda: settling.believe(self._shared.db, answer, asked_at, now))
            self._answered.update(dict.fromkeys(answer, asked_at))
            self._shared.wake["held"].set()
        self._forget_questions(now)

    def _forget_questions(self, now: int) -> None:
        if now < self._forgets_at:
            return
        self._forgets_at = now + FORGOTTEN_EVERY
        for remembered in (self._questions, self._answered):
            for uid in [uid for uid, at in remembered.items() if at < now - REMEMBERED]:
                del remembered[uid]


def _later(until: int, now: int) -> int:
    return until if until > now else now + PATIENCE

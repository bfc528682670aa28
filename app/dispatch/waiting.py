"""Pushes that wait in the database: for another try, for room, or for what becomes of a user who looks online."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from app import presence
from app.clock import now_ms
from app.dispatch import steps
from app.dispatch.ask import Ask
from app.dispatch.settler import Settler
from app.dispatch.shared import LEASE, POLL, Shared
from app.dispatch.work import Parsed, parse
from app.model import Connections, Outcome, Recipients
from app.store import deliveries, inbox
from app.store import presence as presence_store
from app.store.rows import Delivery, Event

log = structlog.get_logger()

MOST = 1_000
"""Rows taken up at once."""
PARSED = 512
"""Events kept parsed for pushes that are taken up again."""
_NO_RECIPIENTS = Recipients(())


class Waiting:
    """Takes rows up again when they are due. `ask`: WuKongIM itself, where it may be asked who is online."""

    def __init__(self, shared: Shared, settler: Settler, ask: Ask | None) -> None:
        self._shared = shared
        self._settler = settler
        self._ask = ask
        self._parsed: OrderedDict[int, Parsed] = OrderedDict()

    async def run_due(self) -> None:
        while True:
            worked = False
            for name, lane in self._shared.lanes.items():
                room = min(MOST, lane.room(now_ms()))
                if room > 0:
                    worked |= await self._take_up(name, room)
            if not worked:
                await self._shared.wait("due", await self._until_due(self._shared.lanes))

    async def _until_due(self, providers: Iterable[str]) -> float:
        def read() -> int | None:
            with self._shared.db.read() as connection:
                return deliveries.next_due(connection, providers, self._shared.owner)

        due = await self._shared.read(read)
        return POLL if due is None else min(POLL, max(0.05, (due - now_ms()) / 1000))

    async def _take_up(self, provider: str, limit: int) -> bool:
        rows = await self._claim(provider, limit)
        if not rows:
            return False
        pairs = await self._with_events(rows)
        known = await self._shared.read(
            lambda: steps.look_up(self._shared.db, [(p, [r.uid]) for r, p in pairs], decided=False)
        )
        now = now_ms()
        renderer = self._shared.renderer()
        jobs, settled = steps.plan_due(pairs, known, renderer, self._shared.limits.max_age, now)
        for row in settled:
            self._settler.add(row, row.event_id or 0)
        self._shared.submit(jobs, now)
        return True

    async def _claim(self, provider: str, limit: int) -> list[Delivery]:
        def write() -> list[Delivery]:
            with self._shared.db.write() as connection:
                return deliveries.claim_due(connection, provider, limit, self._shared.owner, now_ms(), LEASE)

        def read() -> bool:
            with self._shared.db.read() as connection:
                due = deliveries.next_due(connection, [provider], self._shared.owner)
                return due is not None and due <= now_ms()

        return await self._shared.write(write) if await self._shared.read(read) else []

    async def _with_events(self, rows: Sequence[Delivery]) -> list[tuple[Delivery, Parsed]]:
        """Each row with its message; rows whose event is gone get their last word."""
        wanted = {row.event_id for row in rows if row.event_id is not None}
        missing = [event_id for event_id in wanted if event_id not in self._parsed]
        if missing:

            def read() -> dict[int, Event]:
                with self._shared.db.read() as connection:
                    return inbox.load(connection, missing)

            for event_id, event in (await self._shared.read(read)).items():
                parsed = parse(event)
                self._parsed[event_id] = msgspec.structs.replace(parsed, recipients=_NO_RECIPIENTS)
        pairs = []
        for row in rows:
            found = self._parsed.get(row.event_id or 0)
            if found is None:
                self._settler.add(steps.ended(row, Outcome.DEAD, "content gone", now_ms()), 0)
            else:
                pairs.append((row, found))
        while len(self._parsed) > PARSED:
            self._parsed.popitem(last=False)
        return pairs

    async def run_held(self) -> None:
        while True:
            rows = await self._claim("", MOST)
            if rows:
                await self._decide_held(rows)
            else:
                await self._shared.wait("held", await self._until_due([""]))

    async def _decide_held(self, rows: Sequence[Delivery]) -> None:
        pairs = await self._with_events(rows)
        uids = sorted({row.uid for row, _ in pairs})
        look_up = [(parsed, [row.uid]) for row, parsed in pairs]
        known = await self._shared.read(lambda: steps.look_up(self._shared.db, look_up, decided=False))
        asked: frozenset[str] = frozenset()
        if self._ask is not None and (doubtful := self._still_online(known.presence, uids)):
            answer = await self._ask(doubtful)
            if answer is None:
                log.warning("WuKongIM did not say who is online", action="ask", users=len(doubtful))
            else:
                asked = frozenset(answer)
                await self._shared.write(lambda: self._correct(answer))
                known = await self._shared.read(lambda: steps.look_up(self._shared.db, look_up, decided=False))
        now = now_ms()
        free, settled = steps.plan_held(pairs, known, asked, self._shared.rules, now)
        for row in settled:
            self._settler.add(row, row.event_id or 0)
        if free:
            released = await self._shared.write(
                lambda: steps.release(self._shared.db, free, self._shared.owner, LEASE, now)
            )
            messages = {parsed.event_id: parsed for _, parsed, _ in free}
            pushes = [(row, messages[row.event_id]) for row in released if row.event_id in messages]
            renderer = self._shared.renderer()
            jobs, ended = steps.plan_due(pushes, known, renderer, self._shared.limits.max_age, now)
            for row in ended:
                self._settler.add(row, row.event_id or 0)
            self._shared.submit(jobs, now)

    def _still_online(self, known: Mapping[str, Connections], uids: Sequence[str]) -> list[str]:
        policy, now = self._shared.rules.policy, now_ms()
        offline = presence.Looks.OFFLINE
        return [
            uid for uid in uids if presence.looks(known.get(uid, {}), policy.suppress, policy.ttl, now) is not offline
        ]

    def _correct(self, answer: Mapping[str, frozenset[int]]) -> None:
        now = now_ms()
        with self._shared.db.write() as connection:
            before = presence_store.of_users(connection, list(answer))
            after = {uid: presence.correct(before.get(uid, {}), flags, now) for uid, flags in answer.items()}
            presence_store.put(connection, after)

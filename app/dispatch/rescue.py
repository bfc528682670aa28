"""Holds `msg.notify` against `msg.offline`: a message that named nobody who is offline is planned after all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from msgspec import Struct

from app import events, metrics, rescue
from app.clock import now_ms
from app.dispatch import settling, taking
from app.dispatch.ask import Ask
from app.dispatch.shared import LEASE, Shared
from app.intake import LANES, NOTIFY_LANE, NOW_LANE, RESCUE
from app.model import Connections, Device, Message
from app.store import deliveries, devices, inbox, keys
from app.store import presence as presence_store
from app.store.dialect import Database
from app.store.inbox import Arrival
from app.store.rows import Event

log = structlog.get_logger()

CLAIM = (64, 8_000)
"""Calls claimed at once, and their weight: some five hundred messages."""
LOOK_EVERY = 0.25
"""Seconds between two looks: nothing here is in a hurry, and each looks at what is unplanned."""
BACKLOG_PATIENCE = 60_000
"""Milliseconds that a call waits at most for older `msg.offline` to be planned. One that comes later still changes
nothing, since a push is known by its message, user and device."""


class Candidate(Struct, frozen=True):
    """A message that somebody may have missed. `readings`: whom its channel may mean."""

    event: Event
    message: Message
    readings: tuple[str, ...]


class Known(Struct, frozen=True):
    """What the database knows of a batch. `named`: keys of those who have an outcome, by message."""

    named: dict[int, set[str]]
    devices: dict[str, list[Device]]
    presence: dict[str, Connections]


class Rescue:
    """One part of the dispatcher. `ask`: WuKongIM itself, where it may be asked who is online."""

    def __init__(self, shared: Shared, ask: Ask | None) -> None:
        self._shared = shared
        self._ask = ask

    async def run(self) -> None:
        shared = self._shared
        while True:
            until = await shared.read(lambda: ready_until(shared.db, now_ms()))
            taken = await shared.write(lambda until=until: _take(shared, until))  # type: ignore[misc]
            taking.told(shared, taken)
            if taken.claimed:
                await taking.each(taken.claimed, self._rescue, self._give_back, _tell)
            elif not taken.more:
                await asyncio.sleep(LOOK_EVERY)

    async def _give_back(self, event: Event) -> None:
        def write() -> None:
            with self._shared.db.write() as connection:
                letter = taking.unread(event.id, events.NOTIFY, event.received_at, now_ms())
                settling.give_back(connection, letter, event.attempts + 1, self._shared.owner, now_ms())

        await self._shared.write(write)

    async def _rescue(self, claimed: Sequence[Event]) -> None:
        shared, policy = self._shared, self._shared.rules.policy
        counts: Counter[str] = Counter()
        found, seen, bad = await self._candidates(claimed, counts)
        known = await shared.read(lambda: look_up(shared.db, found))
        missed = _missed(found, known, counts)
        asked_at = now_ms()
        answer = await self._who_is_online(list({uid for _, uid in missed}))
        now = now_ms()
        rescued: list[tuple[int, Arrival]] = []
        wrong: dict[str, frozenset[int]] = {}
        for candidate, uid in missed:
            with _alone(candidate.event, candidate.message, counts):
                came_at = candidate.event.received_at
                connections, online = known.presence.get(uid, {}), answer.get(uid)
                reason = rescue.left_out(connections, online, policy=policy, came_at=came_at, now=now)
                if reason:
                    counts[reason] += 1
                    continue
                body, channel = events.naming(candidate.message, uid), candidate.message.channel_key
                rescued.append((candidate.event.id, Arrival(RESCUE, body, came_at, NOW_LANE, 1, True, channel)))
                if online is not None and any(c.online for c in connections.values()):
                    wrong[uid] = online
        if wrong:
            # Else the plan would hold the push of a user who is known to be gone.
            await shared.write(lambda: settling.believe(shared.db, wrong, asked_at, now))
        _count(seen, bad, len(rescued), counts)
        await shared.write(lambda: finish(shared.db, [event.id for event in claimed], rescued, shared.owner))
        if rescued:
            shared.wake[NOW_LANE].set()

    async def _candidates(self, claimed: Sequence[Event], counts: Counter[str]) -> tuple[list[Candidate], int, int]:
        """Who may have missed which of these messages, each message once; how many there were, and bad elements."""
        found: dict[int, Candidate] = {}
        seen = bad = 0
        for event in claimed:
            messages, passed_over = events.notify(event.body)
            seen += len(messages)
            bad += passed_over
            now = now_ms()
            for message in messages:
                with _alone(event, message, counts):
                    kind = events.content(message.payload).type
                    reason = rescue.passed_over(message, kind, self._shared.rules.policy, now)
                    readings = () if reason else rescue.readings(message)
                    if readings:
                        found.setdefault(message.message_id, Candidate(event, message, readings))
                    else:
                        counts[reason or "sender"] += 1
            await asyncio.sleep(0)  # a hundred messages are read in two milliseconds, and pushes are under way
        return list(found.values()), seen, bad

    async def _who_is_online(self, uids: Sequence[str]) -> dict[str, frozenset[int]]:
        """What the server says of these users; nothing where it is not asked or does not answer."""
        if not uids or self._ask is None:
            return {}
        return await self._ask(uids) or {}


@contextmanager
def _alone(event: Event, message: Message, counts: Counter[str]) -> Iterator[None]:
    """Whatever one message raises costs that one alone: its call holds up to a hundred others."""
    try:
        yield
    except Exception as error:
        counts["fault"] += 1
        ids = {"event_id": event.id, "message_id": message.message_id}
        log.error("message passed over", action="rescue", **ids, error=taking.said(error))


def _tell(calls: Sequence[Event], error: Exception) -> None:
    log.error("calls not read", action="rescue", event_ids=[call.id for call in calls], error=taking.said(error))


def _count(seen: int, bad: int, rescued: int, left_out: Counter[str]) -> None:
    metrics.NOTIFIED.inc(seen)
    metrics.BAD_ELEMENTS.labels(events.NOTIFY).inc(bad)
    for reason, count in left_out.items():
        metrics.LEFT_OUT.labels(reason).inc(count)
    if rescued:
        metrics.RESCUED.inc(rescued)
        log.info("msg.offline never came", action="rescue", messages=rescued)


def ready_until(db: Database, now: int) -> int:
    """Calls whose time came by then can be worked on: what `msg.offline` brought until then is planned."""
    with db.read() as connection:
        oldest = inbox.oldest(connection, LANES, events.OFFLINE)
    return now if oldest is None else min(now, max(oldest, now - BACKLOG_PATIENCE))


def _take(shared: Shared, until: int) -> taking.Take[Event]:
    """Statuses first: a user is looked at as of all that was said of them."""
    limit, weight = CLAIM
    with shared.db.read() as connection:
        limit = inbox.ready(connection, NOTIFY_LANE, limit, until)
    if not limit:
        return taking.Take([])
    lease = LEASE + now_ms() - until
    return taking.take(shared.db, NOTIFY_LANE, limit, weight, shared.owner, lease, until, shared.rules)


def look_up(db: Database, found: Sequence[Candidate]) -> Known:
    """In a few statements: who was named, and what is known of all the others."""
    with db.read() as connection:
        named = deliveries.named(connection, [candidate.message.message_id for candidate in found])
        uids = list(
            dict.fromkeys(uid for candidate in found if not _named(candidate, named) for uid in candidate.readings)
        )
        return Known(named, devices.to_push(connection, uids), presence_store.of_users(connection, uids))


def _named(candidate: Candidate, named: dict[int, set[str]]) -> bool:
    who = named.get(candidate.message.message_id)
    return who is not None and any(keys.key(uid) in who for uid in candidate.readings)


def _missed(found: Sequence[Candidate], known: Known, counts: Counter[str]) -> list[tuple[Candidate, str]]:
    """The messages that nobody was named for, and the one user with a device whom each can only have meant."""
    missed = []
    for candidate in found:
        if _named(candidate, known.named):
            counts["named"] += 1
            continue
        users = [uid for uid in candidate.readings if uid in known.devices or uid in known.presence]
        if len(users) > 1:
            counts["ambiguous"] += 1
        elif not users or users[0] not in known.devices:
            counts["no_device"] += 1
        else:
            missed.append((candidate, users[0]))
    return missed


def finish(db: Database, ids: Sequence[int], rescued: Sequence[tuple[int, Arrival]], owner: str) -> None:
    """Put what is rescued in the place of the calls that it was found in, as far as `owner` still holds them."""
    with db.write() as connection:
        held = inbox.remove_held(connection, ids, owner)
        arrivals = [arrival for event_id, arrival in rescued if event_id in held]
        if arrivals:
            inbox.put(connection, arrivals)

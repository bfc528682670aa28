"""What is taken up: statuses first, then messages or held rows, which are decided on all that was said before."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import structlog
from msgspec import Struct

from app import events, metrics, plan, presence
from app.dispatch.shared import Shared
from app.dispatch.steps import Rules
from app.dispatch.work import FAULT
from app.intake import STATUS_LANE
from app.model import Connections, Lane, Outcome
from app.store import deliveries, inbox
from app.store import presence as presence_store
from app.store.dialect import Database, Transaction, Unavailable
from app.store.rows import Delivery, Event

log = structlog.get_logger()

STATUS_CALLS, STATUS_WEIGHT = 200, 2_000
"""Calls of `user.onlinestatus` that are applied in one transaction, and their weight: about their elements."""
HELD_LANE = Lane.NOW
"""That of every row that waits for a user, whatever its pushes will be."""

T = TypeVar("T")


class Take(Struct, Generic[T], frozen=True):
    """What one claim brought. `more`: statuses are left, so nothing was claimed that must be decided after them."""

    claimed: list[T]
    more: bool = False
    went_offline: int = 0
    bad: int = 0


def take(
    db: Database, lane: str, limit: int, weight: int, owner: str, lease: int, now: int, rules: Rules
) -> Take[Event]:
    """Apply the statuses that came, then claim messages: a message is planned on what was said before it."""
    with db.read() as connection:
        if not inbox.has_work(connection, (STATUS_LANE, lane), now):
            return Take([])
    return _after_statuses(
        db, now, rules, lambda c: inbox.claim(c, lane, limit, weight, owner, now, lease, any_channel())
    )


def take_held(db: Database, limit: int, owner: str, lease: int, now: int, rules: Rules) -> Take[Delivery]:
    """Apply the statuses that came, then claim held rows that are due: an "offline" may be among them.

    `take` may be late, since a poke was lost or a large message is being planned.
    """
    with db.read() as connection:
        due = deliveries.next_due(connection, [""], owner, [HELD_LANE])
        if due is None or due > now:
            return Take([])
    return _after_statuses(
        db, now, rules, lambda c: deliveries.claim_due(c, "", HELD_LANE, limit, owner, now, lease, any_channel())
    )


def told(shared: Shared, taken: Take[Any]) -> None:
    """Pass on what the statuses said that came with a claim."""
    if taken.bad:
        metrics.BAD_ELEMENTS.labels(events.STATUS).inc(taken.bad)
    if taken.went_offline:
        shared.wake["held"].set()


def any_channel() -> int:
    """Where the turns begin when more waits than is claimed."""
    return random.randrange(-(2**63), 2**63)


def said(error: Exception) -> str:
    """What may be logged: only our own errors are known to hold no content."""
    return str(error) if isinstance(error, events.BadEvent) else type(error).__name__


async def each(
    claimed: Sequence[T],
    work: Callable[[Sequence[T]], Awaitable[None]],
    give_up: Callable[[T], Awaitable[None]],
    tell: Callable[[Sequence[T], Exception], None],
) -> None:
    """Work on what was claimed together, or one by one where that fails: whatever one raises costs that one alone.

    give_up: what becomes of that one. tell: logs what failed, the batch and then the one.
    """
    try:
        await work(claimed)
    except Unavailable:
        raise
    except Exception as error:
        tell(claimed, error)
        if len(claimed) == 1:
            await give_up(claimed[0])
            return
        for one in claimed:
            await each([one], work, give_up, tell)


class _Unapplied(Exception):
    """Statuses could not be applied together."""


def _after_statuses(db: Database, now: int, rules: Rules, claim: Callable[[Transaction], list[T]]) -> Take[T]:
    try:
        with db.write() as connection:
            waiting, more = inbox.waiting(connection, STATUS_LANE, STATUS_CALLS, STATUS_WEIGHT)
            released, bad = _apply_all(connection, waiting, rules.policy, now)
            if more:
                return Take([], True, released, bad)
            return Take(claim(connection), False, released, bad)
    except _Unapplied:
        log.exception("statuses not applied", action="status")
        return _one_by_one(db, rules, now)


def _apply_all(connection: Transaction, calls: Sequence[Event], policy: plan.Policy, now: int) -> tuple[int, int]:
    try:
        return _apply(connection, calls, policy, now)
    except Unavailable:
        raise
    except Exception as error:
        raise _Unapplied from error


def _one_by_one(db: Database, rules: Rules, now: int) -> Take[T]:
    """Apply each status call by itself: whatever one raises costs that one alone, which is set aside."""
    with db.read() as connection:
        calls, _ = inbox.waiting(connection, STATUS_LANE, STATUS_CALLS, STATUS_WEIGHT)
    released = bad = 0
    for call in calls:
        try:
            with db.write() as connection:
                counts = _apply_all(connection, [call], rules.policy, now)
            released, bad = released + counts[0], bad + counts[1]
        except _Unapplied:
            log.error("status call set aside", action="status", event_id=call.id)
            with db.write() as connection:
                inbox.set_aside(connection, call.id)
                deliveries.insert_new(connection, [unread(call.id, "status", call.received_at, now)])
    return Take([], True, released, bad)


def unread(event_id: int, source: str, received_at: int, now: int, message_id: int | None = None) -> Delivery:
    """The dead letter of a call that cannot be planned; its own number stands in where its message cannot be read."""
    return Delivery(
        message_id=-event_id if message_id is None else message_id,
        uid="",
        device_id="",
        provider="",
        outcome=Outcome.DEAD,
        reason=FAULT,
        source=source,
        first_at=received_at,
        at=now,
        latency_ms=max(0, now - received_at),
        event_id=event_id,
    )


def _apply(connection: Transaction, calls: Sequence[Event], policy: plan.Policy, now: int) -> tuple[int, int]:
    """Apply statuses in their order, free what is held for users who left: how many rows, how many bad elements."""
    if not calls:
        return 0, 0
    parsed = []
    bad = 0
    for call in calls:
        statuses, passed_over = events.statuses(call.body)
        parsed += [(call.received_at, status) for status in statuses]
        bad += passed_over
    uids = list({status.uid for _, status in parsed})
    before = presence_store.of_users(connection, uids)
    after: dict[str, Connections] = {uid: before.get(uid, {}) for uid in uids}
    for received_at, status in parsed:
        after[status.uid] = presence.apply(after[status.uid], status, received_at)
    presence_store.put(connection, {uid: known for uid, known in after.items() if known != before.get(uid)})
    released = deliveries.release_held(connection, offline(after, policy, now), now)
    inbox.remove(connection, [call.id for call in calls])
    return released, bad


def offline(users: Mapping[str, Connections], policy: plan.Policy, now: int) -> list[str]:
    """Those of these users who look offline for certain."""
    return [
        uid
        for uid, known in users.items()
        if presence.looks(known, policy.suppress, policy.ttl, now) is presence.Looks.OFFLINE
    ]

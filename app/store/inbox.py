"""The inbox: accepted webhook calls, claimed with leases, gone when their last delivery is settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import takewhile
from secrets import token_bytes
from typing import Any

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, update

from app.store import dialect
from app.store.rows import Event
from app.store.schema import FAILED, NEW, PLANNED, deliveries, events
from app.store.turns import FIRST, first_of_channels


class Arrival(Struct, frozen=True):
    """One call to be kept.

    once: whether a byte-identical call that still lies in the inbox makes this one a repeat.
    lane: which share of the dispatcher it is planned from. weight: about how many elements it holds.
    channel: the conversation that it takes its turn with. not_before: when it may be claimed at the earliest.
    """

    kind: str
    body: bytes
    received_at: int
    lane: str
    weight: int
    once: bool
    channel: int = 0
    not_before: int = 0


def put(connection: Connection, arrivals: Sequence[Arrival]) -> int:
    """Keep these calls; the number that were no repeats."""
    if not arrivals:
        return 0
    rows = [_row(arrival) for arrival in arrivals]
    return connection.execute(dialect.insert_new(connection, events), rows).rowcount


def _row(arrival: Arrival) -> dict[str, Any]:
    digest = blake2b(arrival.body, digest_size=16).digest() if arrival.once else token_bytes(16)
    return {
        "kind": arrival.kind,
        "digest": digest,
        "body": arrival.body,
        "weight": arrival.weight,
        "lane": arrival.lane,
        "state": NEW,
        "received_at": arrival.received_at,
        "not_before": arrival.not_before,
        "attempts": 0,
        "channel": arrival.channel,
    }


def waiting(connection: Connection, lane: str, limit: int, most_weight: int) -> tuple[list[Event], bool]:
    """The oldest calls of a lane in the order of arrival, unclaimed, and whether there are more.

    At most `limit`, or `most_weight` after the first; for work that is done within one transaction.
    """
    query = select(events.c.id, _COST).where(events.c.state == NEW, events.c.lane == lane)
    found = connection.execute(query.order_by(events.c.id).limit(limit + 1).with_for_update()).all()
    ids = _within(found[:limit], most_weight)
    return _load(connection, ids) if ids else [], len(ids) < len(found)


LOOKED = 1_000
"""Calls of a lane that are looked through for one of a kind."""


def ready(connection: Connection, lane: str, limit: int, now: int) -> int:
    """How many calls of a lane could be claimed now, up to `limit`, where each came with a time of its own.

    Only among those before the first whose time is to come and that was never tried: what came after it is not ready
    either. To claim no more than that spares a walk through all the others, whose bodies stand before their times.
    """
    query = select(events.c.not_before, events.c.attempts, events.c.owner, events.c.lease_until)
    query = query.where(events.c.state == NEW, events.c.lane == lane).order_by(events.c.id).limit(LOOKED)
    count = 0
    with connection.execute(query) as found:
        for not_before, attempts, owner, lease_until in found:
            if owner is not None and lease_until >= now:
                continue
            count += not_before <= now
            if count == limit or (not_before > now and not attempts):
                break
    return count


def has_work(connection: Connection, lanes: Sequence[str], now: int) -> bool:
    """Whether a call of these lanes could be claimed now."""
    query = select(events.c.id).where(events.c.state == NEW, events.c.lane.in_(lanes), _free(now))
    return connection.execute(query.limit(1)).first() is not None


def claim(
    connection: Connection,
    lane: str,
    limit: int,
    most_weight: int,
    owner: str,
    now: int,
    lease: int,
    start: int = FIRST,
) -> list[Event]:
    """Claim free calls of a lane until `now + lease`: at most `limit`, or `most_weight` after the first.

    The oldest; where there are more, every channel has its turn. start: the channel that is first then, at random.
    """
    ids = _within(_next(connection, lane, limit, now, start), most_weight)
    if not ids:
        return []
    connection.execute(update(events).where(events.c.id.in_(ids)).values(owner=owner, lease_until=now + lease))
    return _load(connection, ids)


_COST = events.c.weight + func.length(events.c.body) / 64


def _within(found: Iterable[Sequence[Any]], most_weight: int) -> list[int]:
    """The ids of the first of these (id, cost) that cost no more together, and of one at the least."""
    ids: list[int] = []
    total = 0
    for event_id, cost in found:
        total += int(cost)
        if ids and total > most_weight:
            break
        ids.append(event_id)
    return ids


def _free(now: int) -> ColumnElement[bool]:
    unclaimed = or_(events.c.owner.is_(None), events.c.lease_until < now)
    return and_(events.c.not_before <= now, unclaimed)


def _next(connection: Connection, lane: str, limit: int, now: int, start: int) -> list[tuple[int, int]]:
    """(id, cost) of the calls to claim, what is most due first."""
    in_lane = (events.c.state == NEW, events.c.lane == lane)
    columns = select(events.c.id, _COST)
    oldest = columns.where(*in_lane, _free(now)).order_by(events.c.id).limit(limit).with_for_update(skip_locked=True)
    rows = [(event_id, weight) for event_id, weight in connection.execute(oldest)]
    if len(rows) < limit:
        return rows
    firsts = first_of_channels(
        connection, events.c.channel, events.c.id, in_lane, [_free(now)], start, max(1, limit // 2)
    )
    known = dict(rows)
    missing = [event_id for event_id in firsts if event_id not in known]
    for some in dialect.chunks(missing):
        # Found without a lock, so that another process may have it by now.
        still = columns.where(events.c.id.in_(some), *in_lane, _free(now)).with_for_update(skip_locked=True)
        known.update((event_id, weight) for event_id, weight in connection.execute(still))
    order = dict.fromkeys([*firsts, *(event_id for event_id, _ in rows)])
    return [(event_id, known[event_id]) for event_id in order if event_id in known][:limit]


def oldest(connection: Connection, lanes: Sequence[str], kind: str) -> int | None:
    """When the oldest call of this kind came that is not planned whole yet; None where there is none.

    Where a great many of other kinds stand before it in a lane, it is no older than the last of those looked at, and
    that one's time is given.
    """
    found = []
    for lane in lanes:
        # Its time is read by itself, as it stands behind the body. The call may be planned and gone by then.
        while (first := _first_of(connection, lane, kind)) is not None:
            came = connection.execute(select(events.c.received_at).where(events.c.id == first)).scalar()
            if came is not None:
                found.append(came)
                break
    return min(found, default=None)


def _first_of(connection: Connection, lane: str, kind: str) -> int | None:
    query = select(events.c.id, events.c.kind).where(events.c.state == NEW, events.c.lane == lane)
    others: list[int] = []
    with connection.execute(query.order_by(events.c.id).limit(LOOKED)) as found:
        for event_id, its_kind in found:
            if its_kind == kind:
                return int(event_id)
            others.append(event_id)
    return others[-1] if len(others) == LOOKED else None


def load(connection: Connection, ids: Sequence[int]) -> dict[int, Event]:
    """These calls by id, whoever holds them."""
    return {event.id: event for some in dialect.chunks(ids) for event in _load(connection, some)}


def _load(connection: Connection, ids: Sequence[int]) -> list[Event]:
    query = (
        select(events.c.id, events.c.kind, events.c.body, events.c.received_at, events.c.attempts)
        .where(events.c.id.in_(ids))
        .order_by(events.c.id)
    )
    return [Event(*row) for row in connection.execute(query)]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Remove calls that were dealt with in this transaction."""
    for some in dialect.chunks(ids):
        connection.execute(delete(events).where(events.c.id.in_(some)))


def remove_held(connection: Connection, ids: Sequence[int], owner: str) -> set[int]:
    """Remove claimed calls that were dealt with in this transaction; those that `owner` still held."""
    held: set[int] = set()
    for some in dialect.chunks(ids):
        mine = select(events.c.id).where(events.c.id.in_(some), events.c.owner == owner).with_for_update()
        held.update(connection.execute(mine).scalars())
    remove(connection, sorted(held))
    return held


def planned(connection: Connection, ids: Sequence[int], owner: str) -> int:
    """Mark calls as planned that `owner` still holds, and how many those were; what nothing refers to goes."""
    held = 0
    for some in dialect.chunks(ids):
        values = {"state": PLANNED, "owner": None, "lease_until": None}
        mine = and_(events.c.id.in_(some), events.c.owner == owner)
        held += connection.execute(update(events).where(mine).values(values)).rowcount
    sweep(connection, ids)
    return held


def sweep(connection: Connection, ids: Sequence[int]) -> None:
    """Remove those of these calls, planned or set aside, that no delivery refers to."""
    for some in dialect.chunks(sorted(set(ids))):
        used = select(deliveries.c.id).where(deliveries.c.event_id == events.c.id).exists()
        connection.execute(delete(events).where(events.c.id.in_(some), events.c.state != NEW, ~used))


START = ("", 0)


def sweep_next(connection: Connection, after: tuple[str, int], limit: int) -> tuple[str, int]:
    """Sweep the next `limit` planned calls of a lane; the (lane, id) to go on after, START at the end.

    For what the other sweeps may have passed over: there is no haste, and all that waits would take too long at once.
    """
    lane, last_id = after
    planned = events.c.state == PLANNED
    query = select(events.c.id).where(planned, events.c.lane == lane, events.c.id > last_id)
    ids = list(connection.execute(query.order_by(events.c.id).limit(limit)).scalars())
    sweep(connection, ids)
    if len(ids) == limit:
        return lane, ids[-1]
    following = select(events.c.lane).where(planned, events.c.lane > lane).order_by(events.c.lane).limit(1)
    found = connection.execute(following).scalar()
    return START if found is None else (found, 0)


def give_back(connection: Connection, event_id: int, owner: str, not_before: int, attempts: int, failed: bool) -> None:
    """Give one claimed call back, to be planned from `not_before` on, or set it aside where planning it `failed`."""
    values = {
        "owner": None,
        "lease_until": None,
        "not_before": not_before,
        "attempts": attempts,
        "state": FAILED if failed else NEW,
    }
    connection.execute(update(events).where(events.c.id == event_id, events.c.owner == owner).values(values))


def set_aside(connection: Connection, event_id: int) -> None:
    """Set a call aside that cannot be planned, whoever holds it."""
    values = {"owner": None, "lease_until": None, "state": FAILED}
    connection.execute(update(events).where(events.c.id == event_id).values(values))


def all_set_aside(connection: Connection) -> list[int]:
    """The ids of the calls that are set aside."""
    return list(connection.execute(select(events.c.id).where(events.c.state == FAILED)).scalars())


def retry(connection: Connection, event_id: int) -> None:
    """Have a call planned again that was set aside."""
    again = and_(events.c.id == event_id, events.c.state == FAILED)
    connection.execute(update(events).where(again).values(state=NEW, attempts=0, not_before=0))


def renew(connection: Connection, owner: str, until: int) -> None:
    """Everything that `owner` holds stays its own until then."""
    connection.execute(update(events).where(events.c.owner == owner).values(lease_until=until))


def free(connection: Connection, owner: str) -> int:
    """Free what an earlier process under the same name held; how many."""
    return connection.execute(
        update(events).where(events.c.owner == owner).values(owner=None, lease_until=None)
    ).rowcount


def try_again(connection: Connection) -> int:
    """Take up what was set aside: what could not be planned may be by now; how many calls."""
    again = {"state": NEW, "attempts": 0, "not_before": 0}
    return connection.execute(update(events).where(events.c.state == FAILED).values(again)).rowcount


def forget_failed(connection: Connection, before: int, limit: int) -> int:
    """Remove up to `limit` calls that were set aside and came before then; how many."""
    failed = events.c.state == FAILED
    lanes = select(func.min(events.c.lane)).where(failed)
    lane = connection.execute(lanes).scalar()
    ids: list[int] = []
    while lane is not None and len(ids) < limit:
        oldest = select(events.c.id, events.c.received_at).where(failed, events.c.lane == lane)
        oldest = oldest.order_by(events.c.id).limit(limit - len(ids))
        # The time stands behind the body: a look at it in each young call would read all their bodies.
        with connection.execute(oldest) as found:
            ids += [event_id for event_id, _ in takewhile(lambda call: call.received_at < before, found)]
        lane = connection.execute(lanes.where(events.c.lane > lane)).scalar()
    remove(connection, ids)
    return len(ids)


SET_ASIDE = "failed"
"""In place of a lane: calls that could not be planned."""


def depth(connection: Connection) -> Mapping[str, tuple[int, int | None]]:
    """By lane: how many calls wait to be planned, and when the first came; SET_ASIDE are no lane's any more."""
    # Counted in the index: a million calls would have to be read to compare when they came.
    query = (
        select(events.c.state, events.c.lane, func.count(), func.min(events.c.id))
        .where(events.c.state.in_((NEW, FAILED)))
        .group_by(events.c.state, events.c.lane)
    )
    counted = connection.execute(query).all()
    firsts = select(events.c.id, events.c.received_at).where(events.c.id.in_([first for *_, first in counted]))
    came: dict[int, int] = {row.id: row.received_at for row in connection.execute(firsts)}
    result: dict[str, tuple[int, int | None]] = {}
    for state, lane, count, first in counted:
        oldest = came.get(first)
        name = SET_ASIDE if state == FAILED else lane
        before, since = result.get(name, (0, oldest))
        result[name] = (before + count, min(filter(None, (since, oldest)), default=None))
    return result

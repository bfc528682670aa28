"""Deliveries: the identity of a push, the retry queue, and the trace, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, delete, func, select, update

from app.model import Lane, Outcome
from app.store import dialect, inbox, keys
from app.store.rows import Delivery
from app.store.schema import EXPIRING, HELD, LETTER, WAITING, deliveries
from app.store.turns import FIRST, first_of_channels

_COLUMNS = (
    "message_id",
    "uid",
    "device_id",
    "provider",
    "outcome",
    "reason",
    "provider_id",
    "source",
    "attempts",
    "first_at",
    "at",
    "latency_ms",
    "due_at",
    "event_id",
    "lane",
    "channel",
    "expires_at",
)
_SETTLED = tuple(
    name
    for name in _COLUMNS
    if name not in ("message_id", "uid", "device_id", "source", "lane", "channel", "expires_at")
)
"""What settling a row may change."""
_SELECT = select(*(deliveries.c[name] for name in _COLUMNS), deliveries.c.id)


def known(connection: Connection, message_ids: Sequence[int], uids: Sequence[str]) -> set[tuple[int, str, str]]:
    """Which (message id, uid, device id) of these messages and users have an outcome already.

    For messages of few recipients: one seek a message, where a search by both has one for each pair.
    """
    by_key = {keys.key(uid): uid for uid in uids}
    found = set()
    for some in dialect.chunks(message_ids):
        for message_id, key, device_id in connection.execute(_IDENTITY.where(deliveries.c.message_id.in_(some))).all():
            if key in by_key:
                found.add((message_id, by_key[key], device_id))
    return found


def known_among(connection: Connection, message_id: int, uids: Sequence[str]) -> set[tuple[int, str, str]]:
    """As `known`, for some of the many recipients of one message."""
    by_key = {keys.key(uid): uid for uid in uids}
    found = set()
    for some in dialect.chunks(list(by_key)):
        query = _IDENTITY.where(deliveries.c.message_id == message_id, deliveries.c.uid.in_(some))
        for _, key, device_id in connection.execute(query).all():
            found.add((message_id, by_key[key], device_id))
    return found


_IDENTITY = select(deliveries.c.message_id, deliveries.c.uid, deliveries.c.device_id)


def named(connection: Connection, message_ids: Sequence[int]) -> dict[int, set[str]]:
    """By message id: the `keys` of everybody who has an outcome of it already, or waits for one."""
    found: dict[int, set[str]] = {}
    for some in dialect.chunks(message_ids):
        for message_id, key, _ in connection.execute(_IDENTITY.where(deliveries.c.message_id.in_(some))).all():
            found.setdefault(message_id, set()).add(key)
    return found


def insert_new(connection: Connection, rows: Sequence[Delivery], owner: str | None = None) -> int:
    """Keep outcomes that have no row yet; how many that were. A row that is there already is left alone."""
    if not rows:
        return 0
    keys.remember(connection, (row.uid for row in rows))
    values = [(*_values(row), owner if row.due_at is not None else None) for row in rows]
    return dialect.insert_rows(connection, dialect.insert_new(connection, deliveries), (*_COLUMNS, "owner"), values)


def _values(row: Delivery) -> tuple[Any, ...]:
    """In the order of _COLUMNS."""
    return (
        row.message_id,
        keys.key(row.uid),
        row.device_id,
        row.provider,
        row.outcome.value,
        row.reason[:255],
        row.provider_id[:255],
        row.source,
        row.attempts,
        row.first_at,
        row.at,
        row.latency_ms,
        row.due_at,
        row.event_id,
        row.lane,
        row.channel,
        row.expires_at,
    )


def update_held_by(connection: Connection, rows: Sequence[Delivery], owner: str) -> int:
    """Settle rows that `owner` claimed, and let go of them; how many those were. Rows it no longer holds stay."""
    held: set[int] = set()
    for some in dialect.chunks([row.id for row in rows]):
        mine = select(deliveries.c.id).where(deliveries.c.id.in_(some), deliveries.c.owner == owner).with_for_update()
        held.update(connection.execute(mine).scalars())
    # Each is there already: this way a hundred are one statement, where UPDATE has one each.
    over = dialect.upsert(connection, deliveries, ["id"], [*_SETTLED, "owner"])
    values = [(*_values(row), None, row.id) for row in rows if row.id in held]
    dialect.insert_rows(connection, over, (*_COLUMNS, "owner", "id"), values)
    return len(values)


def claim_due(
    connection: Connection, provider: str, lane: int, limit: int, owner: str, now: int, lease: int, start: int = FIRST
) -> list[Delivery]:
    """Claim rows of one provider and lane that are due; "" has those that wait for a user and not for a device.

    Rows that `owner` holds already are under way, however late it is in renewing its lease. Where more are due than
    may be claimed, every channel has its turn, from `start` on; and what is worth nothing after a time goes first,
    the newest of it before what will be too late anyway.
    """
    in_lane = (deliveries.c.provider == provider, deliveries.c.lane == lane, WAITING)
    unheld = deliveries.c.owner.is_(None) | (deliveries.c.owner != owner)
    query = _SELECT.where(*in_lane, deliveries.c.due_at <= now, unheld)
    oldest = query.order_by(deliveries.c.due_at, deliveries.c.id).limit(limit).with_for_update(skip_locked=True)
    rows = list(connection.execute(oldest).all())
    if len(rows) == limit > 1:  # a single one is to try a provider: not the same one again, if it failed
        # Found without a lock, so that another process may have it by now: looked at again, as what is free.
        # An expression, or SQLite takes the index by due time for it, and walks all that is due.
        free = (deliveries.c.due_at + 0 <= now, unheld)
        ids = _ahead(connection, in_lane, free, limit, now, start)
        ahead = _SELECT.where(deliveries.c.id.in_(ids), *free).with_for_update(skip_locked=True)
        rows = list({row.id: row for row in [*connection.execute(ahead).all(), *rows]}.values())[:limit]
    rows.sort(key=lambda row: row.id)  # as they were planned
    for some in dialect.chunks([row.id for row in rows]):
        mine = deliveries.c.id.in_(some)
        connection.execute(update(deliveries).where(mine).values(owner=owner, due_at=now + lease))
    return _deliveries(connection, rows)


_Conditions = Sequence[ColumnElement[bool]]


def _ahead(
    connection: Connection, in_lane: _Conditions, free: _Conditions, limit: int, now: int, start: int
) -> list[int]:
    """What goes ahead of the oldest: a quarter of what will be worth nothing soon, and the first of each channel."""
    # No further than that: after a long pause most of a backlog may be too late, and would be walked with each claim.
    newest = select(deliveries.c.id).where(*in_lane, EXPIRING).order_by(deliveries.c.first_at.desc()).limit(4 * limit)
    among = deliveries.c.id.in_(select(newest.subquery().c.id))
    soon = select(deliveries.c.id).where(among, *free, deliveries.c.expires_at > now)
    soon = soon.order_by(deliveries.c.first_at.desc()).limit(limit // 4)
    channels = first_of_channels(
        connection, deliveries.c.channel, deliveries.c.id, in_lane, free, start, max(1, limit // 2)
    )
    return [*connection.execute(soon).scalars(), *channels]


def next_due(
    connection: Connection, providers: Iterable[str], owner: str, lanes: Iterable[int] = tuple(Lane)
) -> int | None:
    """When the next row of these providers and lanes is due that `owner` does not hold already.

    One that another process holds is due when its lease ends: that process may be dead.
    """
    times = []
    for provider, lane in product(providers, lanes):
        query = (
            select(deliveries.c.due_at)
            .where(deliveries.c.provider == provider, deliveries.c.lane == lane, WAITING)
            .where(deliveries.c.owner.is_(None) | (deliveries.c.owner != owner))
            .order_by(deliveries.c.due_at)
            .limit(1)
        )
        found = connection.execute(query).scalar()
        if found is not None:
            times.append(found)
    return min(times, default=None)


def hasten(
    connection: Connection, provider: str, lane: int, after: tuple[int, int], now: int, limit: int
) -> tuple[int, int]:
    """Look at the next `limit` rows by due time, and have those tried now that were never sent.

    after: the (due_at, id) to go on after. Gives the next one, the same where there is none.
    """
    query = select(deliveries.c.id, deliveries.c.due_at, deliveries.c.outcome, deliveries.c.owner)
    query = query.where(deliveries.c.provider == provider, deliveries.c.lane == lane, WAITING).with_for_update()
    rows = _following(connection, query, deliveries.c.due_at, after, limit)
    for some in dialect.chunks([row.id for row in rows if row.outcome == Outcome.QUEUED and row.owner is None]):
        connection.execute(update(deliveries).where(deliveries.c.id.in_(some)).values(due_at=now))
    return (rows[-1].due_at, rows[-1].id) if rows else after


def _following(
    connection: Connection, query: Select[Any], column: Column[Any], after: tuple[int, int], limit: int
) -> list[Any]:
    """The next rows by this column and by id, after these values of both."""
    value, last_id = after
    query = query.order_by(column, deliveries.c.id)
    # One after the other: with OR the index gives all of one time again and again, which may be a whole large group.
    rows = list(connection.execute(query.where(column == value, deliveries.c.id > last_id).limit(limit)))
    if len(rows) < limit:
        rows += connection.execute(query.where(column > value).limit(limit - len(rows)))
    return rows


def release_held(connection: Connection, uids: Sequence[str], now: int) -> int:
    """The users are offline after all: what is held for them is due now."""
    released = 0
    for some in dialect.chunks([keys.key(uid) for uid in uids]):
        waiting = and_(
            deliveries.c.uid.in_(some),
            HELD,
            deliveries.c.owner.is_(None),
            deliveries.c.due_at > now,
        )
        released += connection.execute(update(deliveries).where(waiting).values(due_at=now)).rowcount
    return released


def release_to_devices(
    connection: Connection, held: Delivery, pushes: Sequence[Delivery], owner: str
) -> list[Delivery] | None:
    """Put one row a device in the place of a held user's row; None where `owner` no longer holds that.

    Devices that have an outcome already get none. Where that is all of them, nothing may need the content any more.
    """
    mine = and_(deliveries.c.id == held.id, deliveries.c.owner == owner)
    if not connection.execute(delete(deliveries).where(mine)).rowcount:
        return None
    insert_new(connection, pushes, owner)
    query = _SELECT.where(
        deliveries.c.message_id == held.message_id,
        deliveries.c.uid == keys.key(held.uid),
        deliveries.c.owner == owner,
        deliveries.c.event_id == held.event_id,  # another call's push to the same device may be under way
    )
    released = _deliveries(connection, connection.execute(query).all())
    if not released and held.event_id is not None:
        inbox.sweep(connection, [held.event_id])
    return released


def renew(connection: Connection, owner: str, until: int) -> None:
    """Everything that `owner` holds stays its own until then."""
    connection.execute(update(deliveries).where(WAITING, deliveries.c.owner == owner).values(due_at=until))


def free(connection: Connection, owner: str, now: int) -> int:
    """Free what an earlier process under the same name held; how many."""
    mine = and_(WAITING, deliveries.c.owner == owner)
    return connection.execute(update(deliveries).where(mine).values(owner=None, due_at=now)).rowcount


def trace(
    connection: Connection,
    *,
    uid: str | None = None,
    message_id: int | None = None,
    outcome: str | None = None,
    limit: int = 50,
    before: tuple[int, int] | None = None,
) -> list[Delivery]:
    """Outcomes, the newest first. `before`: the (at, id) of the last one seen."""
    # Of one message as a term, or SQLite walks all that its user got, in the order of time, to find it.
    time = deliveries.c.at if message_id is None else deliveries.c.at + 0
    query = _SELECT.order_by(time.desc(), deliveries.c.id.desc()).limit(limit)
    if uid is not None:
        query = query.where(deliveries.c.uid == keys.key(uid))
    if message_id is not None:
        query = query.where(deliveries.c.message_id == message_id)
    if outcome is not None:
        query = query.where(deliveries.c.outcome == outcome)
    if before is not None:
        at, last_id = before
        # The bound first: an index by time cannot begin at one of two alternatives.
        query = query.where(time <= at, (time < at) | (deliveries.c.id < last_id))
    return _deliveries(connection, connection.execute(query).all())


def _deliveries(connection: Connection, rows: Sequence[Any]) -> list[Delivery]:
    names = keys.restore(connection, (row.uid for row in rows))
    result = []
    for row in rows:
        fields = dict(zip((*_COLUMNS, "id"), row, strict=True))
        fields["uid"] = names.get(row.uid, row.uid)
        fields["outcome"] = Outcome(row.outcome)
        result.append(Delivery(**fields))
    return result


def dead_letters(connection: Connection, limit: int, before: int | None = None) -> list[Delivery]:
    """Given-up pushes whose content is still here, the newest first. `before`: the id of the last one seen."""
    query = _SELECT.where(LETTER).order_by(deliveries.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    return _deliveries(connection, connection.execute(query).all())


def retry_dead(connection: Connection, letter_id: int, now: int) -> bool:
    """Try a dead letter again, as if it had just been accepted; False where there is none of that id.

    One without a user is a call that could not be planned: it goes back to the inbox.
    """
    unread = and_(deliveries.c.id == letter_id, LETTER, deliveries.c.uid == "")
    event_id = connection.execute(select(deliveries.c.event_id).where(unread)).scalar()
    if event_id is not None:
        connection.execute(delete(deliveries).where(unread))
        inbox.retry(connection, event_id)
        return True
    values = {
        "outcome": Outcome.RETRYING,
        "reason": "retried by hand",
        "due_at": now,
        "first_at": now,
        "attempts": 0,
        "at": now,
    }
    return (
        connection.execute(update(deliveries).where(deliveries.c.id == letter_id, LETTER).values(values)).rowcount > 0
    )


def forget_unread(connection: Connection) -> None:
    """Remove the letters of calls that could not be planned: all are tried again."""
    connection.execute(delete(deliveries).where(LETTER, deliveries.c.uid == ""))


def forget_dead(connection: Connection, letter_id: int) -> bool:
    """Let go of a dead letter's content; its trace stays. False where there is none of that id."""
    mine = and_(deliveries.c.id == letter_id, LETTER)
    event_id = connection.execute(select(deliveries.c.event_id).where(mine)).scalar()
    if event_id is None:
        return False
    connection.execute(update(deliveries).where(mine).values(event_id=None))
    inbox.sweep(connection, [event_id])
    return True


def awaited(connection: Connection) -> list[str]:
    """The providers that something waits for; "" where it waits for a user. One seek each, however much that is."""
    found: list[str] = []
    query = select(deliveries.c.provider).where(WAITING).order_by(deliveries.c.provider)
    while True:
        beyond = query.where(deliveries.c.provider > found[-1]) if found else query
        provider = connection.execute(beyond.limit(1)).scalar()
        if provider is None:
            return found
        found.append(provider)


def give_up(connection: Connection, providers: Sequence[str], now: int, limit: int) -> int:
    """Give up to `limit` rows up that wait for one of these providers, which are gone; how many."""
    # At a reload the dispatcher that still had the provider may have some of it under way.
    unclaimed = deliveries.c.owner.is_(None) | (deliveries.c.due_at < now)
    waiting = select(deliveries.c.id).where(WAITING, deliveries.c.provider.in_(providers), unclaimed)
    ids = list(connection.execute(waiting.limit(limit).with_for_update()).scalars())
    values = {"outcome": Outcome.DEAD, "reason": "provider_unknown", "due_at": None, "owner": None, "at": now}
    for some in dialect.chunks(ids):
        connection.execute(update(deliveries).where(deliveries.c.id.in_(some)).values(values))
    return len(ids)


START = (0, 0)


def forget(connection: Connection, before: int, limit: int, after: tuple[int, int] = START) -> tuple[int, int]:
    """Look at the `limit` oldest outcomes, remove those that are the last word since before then, and their contents.

    after: the (at, id) to go on after. Gives the next one, the same where nothing from before then is left: rows that
    wait may be any number, and must not be walked again for each that goes.
    """
    query = select(deliveries.c.at, deliveries.c.id, deliveries.c.due_at, deliveries.c.event_id).with_for_update()
    rows = _following(connection, query.where(deliveries.c.at < before), deliveries.c.at, after, limit)
    gone = [row for row in rows if row.due_at is None]
    for some in dialect.chunks([row.id for row in gone]):
        connection.execute(delete(deliveries).where(deliveries.c.id.in_(some)))
    inbox.sweep(connection, [row.event_id for row in gone if row.event_id is not None])
    return (rows[-1].at, rows[-1].id) if rows else after


def waiting(connection: Connection) -> dict[str, int]:
    """By provider: how many rows are to be taken up again; "" has those that wait for a user."""
    query = select(deliveries.c.provider, func.count()).where(WAITING)
    return {row[0]: row[1] for row in connection.execute(query.group_by(deliveries.c.provider))}


def pending(connection: Connection) -> Mapping[str, tuple[int, int | None]]:
    """By outcome: how many rows are to be taken up again, and since when the oldest waits."""
    query = (
        select(deliveries.c.outcome, func.count(), func.min(deliveries.c.first_at))
        .where(WAITING)
        .group_by(deliveries.c.outcome)
    )
    return {outcome: (count, oldest) for outcome, count, oldest in connection.execute(query)}

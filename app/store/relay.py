"""The events that wait to be passed on: one ordered queue for each target and kind of event.

A row that was passed on stays for a while without its body, so that a repeat is recognised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from itertools import takewhile

from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, union_all, update

from app.store import dialect
from app.store.schema import relay

SEEN = 600_000
"""Milliseconds for which what was passed on makes a byte-identical event a repeat."""
NEAR = 2_000
"""Rows that are looked through for one that came after: a repeat comes within seconds."""
MERGED = 100
"""Kinds whose queues are merged to find what is oldest; of more, which are made up, all that waits is sorted."""

_WAITING = relay.c.done_at.is_(None)
_COLUMNS = ("target", "kind", "digest", "body", "received_at")


class Copy(Struct, frozen=True):
    """One event for one target.

    once: any byte-identical one of the last ten minutes makes this a repeat; else only the one right before it does,
    because the same may be said again after something else was.
    """

    target: str
    kind: str
    body: bytes
    received_at: int
    once: bool


class Waiting(Struct, frozen=True):
    """One event that has not been passed on."""

    id: int
    received_at: int
    body: bytes


Stream = tuple[str, str]
"""Target and kind."""


def put(connection: Connection, copies: Sequence[Copy]) -> int:
    """Keep these copies, in their order; how many were no repeats."""
    digests = [blake2b(copy.body, digest_size=16).digest() for copy in copies]
    asked: dict[Stream, tuple[Copy, list[bytes]]] = {}
    for copy, digest in zip(copies, digests, strict=True):
        asked.setdefault((copy.target, copy.kind), (copy, []))[1].append(digest)
    known = {stream: _known(connection, copy, some) for stream, (copy, some) in asked.items()}
    rows = []
    for copy, digest in zip(copies, digests, strict=True):
        stream = copy.target, copy.kind
        if digest in known[stream]:
            continue
        known[stream] = {*known[stream], digest} if copy.once else {digest}
        rows.append((copy.target, copy.kind, digest, copy.body, copy.received_at))
    if rows:
        dialect.insert_rows(connection, dialect.insert(connection, relay), _COLUMNS, rows)
    return len(rows)


def _known(connection: Connection, copy: Copy, digests: Sequence[bytes]) -> set[bytes]:
    """Which of these digests make another event like this one, in its stream, a repeat."""
    mine = and_(relay.c.target == copy.target, relay.c.kind == copy.kind)
    recent = or_(_WAITING, relay.c.done_at >= copy.received_at - SEEN)
    found: dict[bytes, int] = {}
    for some in dialect.chunks(list(dict.fromkeys(digests))):
        query = select(relay.c.digest, func.max(relay.c.id)).where(mine, relay.c.digest.in_(some), recent)
        found |= dict(connection.execute(query.group_by(relay.c.digest)).all())
    if copy.once or not found:
        return set(found)
    digest = max(found, key=found.__getitem__)
    later = select(relay.c.target, relay.c.kind).where(relay.c.id > found[digest]).order_by(relay.c.id).limit(NEAR)
    after = [(target, kind) for target, kind in connection.execute(later)]
    return set() if (copy.target, copy.kind) in after or len(after) == NEAR else {digest}


def kinds(connection: Connection, target: str, limit: int, after: str, besides: Collection[str]) -> list[str]:
    """Up to `limit` kinds of events that wait for a target and are not among `besides`.

    In the order of their names from `after` on, and then from the first one, so that each has its turn.
    """
    # A look into the index for each, where DISTINCT would read all that waits.
    waiting = select(relay.c.kind).where(relay.c.target == target, _WAITING).order_by(relay.c.kind, relay.c.id).limit(1)
    found: list[str] = []
    for part, query in ((waiting, waiting.where(relay.c.kind > after)), (waiting.where(relay.c.kind <= after),) * 2):
        while len(found) < limit and (kind := connection.execute(query).scalar()) is not None:
            if kind not in besides:
                found.append(kind)
            # Never two lower bounds: SQLite begins at the first of them, and reads all that lies in between.
            query = part.where(relay.c.kind > kind)
    return found


def waits(connection: Connection, target: str, kind: str) -> bool:
    """Whether an event of this kind waits for a target."""
    return connection.execute(select(relay.c.id).where(_of(target, kind)).limit(1)).first() is not None


def head(connection: Connection, target: str, kind: str, limit: int, most_bytes: int) -> list[Waiting]:
    """The oldest events of a stream in their order, one at the least and not more than `most_bytes` of bodies else."""
    sizes = select(relay.c.id, func.length(relay.c.body)).where(_of(target, kind)).order_by(relay.c.id).limit(limit)
    ids: list[int] = []
    total = 0
    for row_id, size in connection.execute(sizes):
        total += size
        if ids and total > most_bytes:
            break
        ids.append(row_id)
    query = select(relay.c.id, relay.c.received_at, relay.c.body).where(relay.c.id.in_(ids)).order_by(relay.c.id)
    return [Waiting(*row) for row in connection.execute(query)] if ids else []


def done(connection: Connection, ids: Sequence[int], now: int) -> None:
    """These were passed on: their bodies go."""
    for some in dialect.chunks(ids):
        connection.execute(update(relay).where(relay.c.id.in_(some)).values(done_at=now, body=b""))


def drop(connection: Connection, target: str, kind: str, before: int, limit: int) -> int:
    """Give up to `limit` of the stream's oldest events up, as far as they came before then; how many."""
    oldest = select(relay.c.id, relay.c.received_at).where(_of(target, kind)).order_by(relay.c.id).limit(limit)
    # The time stands behind the body: a look at it in each young row would read all their bodies.
    with connection.execute(oldest) as found:
        ids = [row_id for row_id, _ in takewhile(lambda row: row.received_at < before, found)]
    return _delete(connection, ids)


def newest(connection: Connection) -> int:
    """The highest id of an event that is kept, 0 where there is none."""
    return int(connection.execute(select(func.max(relay.c.id))).scalar() or 0)


def count(connection: Connection, target: str) -> int:
    """How many events wait for a target."""
    mine = select(func.count()).select_from(relay).where(relay.c.target == target, _WAITING)
    return int(connection.execute(mine).scalar_one())


def oldest(connection: Connection, target: str, limit: int) -> list[tuple[int, str]]:
    """(id, kind) of the events that have waited longest for a target."""
    some = kinds(connection, target, MERGED + 1, "", ())
    # Each of these is in the index's order already, so that no more is read than is wanted.
    queues = [select(relay.c.id, relay.c.kind).where(_of(target, kind)) for kind in some]
    if not queues or len(queues) > MERGED:
        queues = [select(relay.c.id, relay.c.kind).where(relay.c.target == target, _WAITING)]
    query = union_all(*queues).order_by("id").limit(limit)
    return [(row_id, kind) for row_id, kind in connection.execute(query)]


def give_up(connection: Connection, ids: Sequence[int]) -> int:
    """Drop those of these events that still wait; how many."""
    dropped = 0
    for some in dialect.chunks(ids):
        dropped += connection.execute(delete(relay).where(relay.c.id.in_(some), _WAITING)).rowcount
    return dropped


def abandoned(connection: Connection, targets: Collection[str], before: int, limit: int) -> list[Stream]:
    """The streams, up to `limit` a target, of those that are not among these, whose oldest event came before then."""
    found: list[Stream] = []
    for target in _targets(connection):
        for kind in [] if target in targets else kinds(connection, target, limit, "", ()):
            first = select(relay.c.received_at).where(_of(target, kind)).order_by(relay.c.id).limit(1)
            if (at := connection.execute(first).scalar()) is not None and at < before:
                found.append((target, kind))
    return found


def forget(connection: Connection, before: int, limit: int) -> int:
    """Remove up to `limit` rows of what was passed on before then; how many."""
    old = select(relay.c.id).where(relay.c.done_at < before).order_by(relay.c.done_at).limit(limit)
    return _delete(connection, list(connection.execute(old).scalars()))


def depth(connection: Connection) -> Mapping[Stream, tuple[int, int]]:
    """By target and kind: how many events wait, and when the oldest came."""
    # The index alone answers this; the time stands behind the body, so that it is read for the oldest ones only.
    counts = (
        select(relay.c.target, relay.c.kind, func.count(), func.min(relay.c.id))
        .where(_WAITING)
        .group_by(relay.c.target, relay.c.kind)
    )
    found = {(target, kind): (count, oldest) for target, kind, count, oldest in connection.execute(counts)}
    times: dict[int, int] = {}
    for some in dialect.chunks([oldest for _, oldest in found.values()]):
        query = select(relay.c.id, relay.c.received_at).where(relay.c.id.in_(some))
        times |= dict(connection.execute(query).all())
    return {stream: (count, times[oldest]) for stream, (count, oldest) in found.items() if oldest in times}


def _of(target: str, kind: str) -> ColumnElement[bool]:
    return and_(relay.c.target == target, relay.c.kind == kind, _WAITING)


def _targets(connection: Connection) -> list[str]:
    """The targets that something waits for, with a look into the index for each."""
    found: list[str] = []
    waiting = select(func.min(relay.c.target)).where(_WAITING)
    while True:
        name = connection.execute(waiting.where(relay.c.target > found[-1]) if found else waiting).scalar()
        if name is None:
            return found
        found.append(name)


def _delete(connection: Connection, ids: Sequence[int]) -> int:
    for some in dialect.chunks(ids):
        connection.execute(delete(relay).where(relay.c.id.in_(some)))
    return len(ids)

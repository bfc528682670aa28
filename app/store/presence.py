"""Who is online on which kind of device, as `user.onlinestatus` said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection as Db
from sqlalchemy import and_, delete, func, select

from app.model import Connection, Connections
from app.store import dialect, keys
from app.store.schema import presence

_VALUES = ("online", "since", "seen", "opened", "count", "closed", "closed_at")


def of_users(db: Db, uids: Sequence[str]) -> dict[str, Connections]:
    """The connections of each user that anything is known of."""
    by_key = {keys.key(uid): uid for uid in uids}
    found: dict[str, Connections] = {}
    columns = (presence.c.uid, presence.c.device_flag, *(presence.c[name] for name in _VALUES))
    for some in dialect.chunks(list(by_key)):
        for row in db.execute(select(*columns).where(presence.c.uid.in_(some))).all():
            found.setdefault(by_key[row[0]], {})[row[1]] = Connection(*row[2:])
    return found


def put(db: Db, users: Mapping[str, Connections]) -> None:
    """Keep these users' connections in place of the former ones."""
    keys.remember(db, users)
    rows = [
        {"uid": keys.key(uid), "device_flag": flag, **{name: getattr(connection, name) for name in _VALUES}}
        for uid, connections in users.items()
        for flag, connection in connections.items()
    ]
    if rows:
        db.execute(dialect.upsert(db, presence, ("uid", "device_flag"), _VALUES), rows)


def online(db: Db) -> int:
    """How many users have a connection that is said to be open."""
    query = select(func.count(func.distinct(presence.c.uid))).where(presence.c.online.is_(True))
    return int(db.execute(query).scalar_one())


def forget(db: Db, before: int, limit: int, after: str = "") -> str:
    """Look at the next `limit` records, and remove those of kinds of device that nothing was said of since before then.

    after: the key of a user to go on after. Gives the next one, "" at the end. A walk that takes hours is soon enough,
    where an index would be written with each status.
    """
    query = select(presence.c.uid).where(presence.c.uid > after).order_by(presence.c.uid)
    last = db.execute(query.offset(limit - 1).limit(1)).scalar()
    here = presence.c.uid > after if last is None else and_(presence.c.uid > after, presence.c.uid <= last)
    db.execute(delete(presence).where(here, presence.c.seen < before))
    return last or ""

"""Who is online on which kind of device, as `user.onlinestatus` said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection as Db
from sqlalchemy import delete, func, select

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


def forget(db: Db, before: int) -> int:
    """Remove records of kinds of device that nothing has been said of since before then."""
    return db.execute(delete(presence).where(presence.c.seen < before)).rowcount

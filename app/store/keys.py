"""Keys for ids of any length.

WuKongIM's uids and channel ids may be thousands of characters long, more than the databases can index.
An id that is short enough is its own key; a longer one is known by a digest, and kept once in `long_names`.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from secrets import token_hex

from sqlalchemy import Connection, delete, select

from app.store import dialect, schema

MAX_BYTES = 240
_MARK = "\x01"


def key(name: str) -> str:
    """What stands for `name` in a column."""
    if len(name) * 4 <= MAX_BYTES and name.isprintable():
        return name
    if "\x00" not in name and not name.startswith(_MARK) and len(name.encode()) <= MAX_BYTES:
        return name
    return _MARK + blake2b(name.encode(), digest_size=20).hexdigest()


def remember(connection: Connection, names: Iterable[str]) -> None:
    """Keep the long ones among `names`, so that `restore` can give them back."""
    rows = [{"key": k, "name": name.encode()} for name in set(names) if (k := key(name)) is not name and k != name]
    if rows:
        connection.execute(dialect.insert_new(connection, schema.long_names), rows)


def restore(connection: Connection, keys: Iterable[str]) -> dict[str, str]:
    """The ids that the digests among `keys` stand for."""
    long = sorted({k for k in keys if k.startswith(_MARK)})
    names: dict[str, str] = {}
    for some in dialect.chunks(long):
        table = schema.long_names
        for row in connection.execute(select(table.c.key, table.c.name).where(table.c.key.in_(some))):
            names[row.key] = row.name.decode()
    return names


_USERS = tuple(table.c.uid for table in (schema.deliveries, schema.devices, schema.users, schema.presence))


def forget_unused(connection: Connection, limit: int = dialect.CHUNK, start: str = "") -> int:
    """Look at up to `limit` long ids, and remove those that no table names any more; how many.

    start: the key to look from, all the way round; a random one where none is given, so that all have their turn.
    """
    name, start = schema.long_names.c.key, start or _MARK + token_hex(20)
    some = select(name).order_by(name)
    looked_at = list(connection.execute(some.where(name >= start).limit(limit)).scalars())
    if len(looked_at) < limit:
        looked_at += connection.execute(some.where(name < start).limit(limit - len(looked_at))).scalars()
    if not looked_at:
        return 0
    of_nobody = [~select(uid).where(uid == name).exists() for uid in _USERS]
    unused = set(connection.execute(select(name).where(name.in_(looked_at), *of_nobody)).scalars())
    if unused:  # one pass: there are few channels that have a name, and their ids have no index of their own
        channel = schema.channels.c.channel_id
        unused.difference_update(connection.execute(select(channel).where(channel.in_(unused))).scalars())
    connection.execute(delete(schema.long_names).where(name.in_(unused)))
    return len(unused)

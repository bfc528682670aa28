"""What is known of users and channels: names, locales, settings."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, select

from app.model import Settings
from app.store import dialect, keys
from app.store.schema import channels, users


def settings(connection: Connection, uids: Sequence[str]) -> dict[str, Settings]:
    """The settings of each user who has any."""
    by_key = {keys.key(uid): uid for uid in uids}
    found = {}
    for some in dialect.chunks(list(by_key)):
        query = select(users.c.uid, users.c.name, users.c.locale, users.c.show_content).where(users.c.uid.in_(some))
        for row in connection.execute(query).all():
            found[by_key[row[0]]] = Settings(*row[1:])
    return found


def put_settings(connection: Connection, uid: str, value: Settings) -> None:
    """Keep a user's settings in place of the former ones."""
    keys.remember(connection, (uid,))
    row = {"uid": keys.key(uid), "name": value.name, "locale": value.locale, "show_content": value.show_content}
    connection.execute(dialect.upsert(connection, users, ("uid",), ("name", "locale", "show_content")), [row])


def channel_names(connection: Connection, ids: Sequence[tuple[int, str]]) -> dict[tuple[int, str], str]:
    """The names of those of these (channel type, channel id) that have one."""
    by_type: dict[int, dict[str, str]] = {}
    for channel_type, name in ids:
        by_type.setdefault(channel_type, {})[keys.key(name)] = name
    found = {}
    # Each type by itself: the index begins with it, and without it all names would be read.
    for channel_type, by_key in by_type.items():
        for some in dialect.chunks(list(by_key)):
            mine = and_(channels.c.channel_type == channel_type, channels.c.channel_id.in_(some))
            for row in connection.execute(select(channels.c.channel_id, channels.c.name).where(mine)).all():
                found[channel_type, by_key[row[0]]] = row[1]
    return found


def put_channel(connection: Connection, channel_type: int, channel_id: str, name: str) -> bool:
    """Name a channel; True where it had no name before."""
    known = bool(channel_names(connection, [(channel_type, channel_id)]))
    keys.remember(connection, (channel_id,))
    row = {"channel_type": channel_type, "channel_id": keys.key(channel_id), "name": name}
    connection.execute(dialect.upsert(connection, channels, ("channel_type", "channel_id"), ("name",)), [row])
    return not known


def remove_channel(connection: Connection, channel_type: int, channel_id: str) -> bool:
    """Forget a channel's name; False where it had none."""
    mine = and_(channels.c.channel_type == channel_type, channels.c.channel_id == keys.key(channel_id))
    return connection.execute(delete(channels).where(mine)).rowcount > 0

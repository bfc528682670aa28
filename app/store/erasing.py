"""Everything that is kept of one user, removed."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from app.store import inbox, keys
from app.store.schema import channels, deliveries, devices, long_names, presence, users


def erase(connection: Connection, uid: str) -> None:
    """Remove a user's devices, settings, presence, waiting pushes and trace, and the contents that only they needed."""
    key = keys.key(uid)
    mine = deliveries.c.uid == key
    contents = select(deliveries.c.event_id).where(mine, deliveries.c.event_id.is_not(None)).distinct()
    event_ids = list(connection.execute(contents).scalars())
    for table in (deliveries, devices, users, presence):
        connection.execute(delete(table).where(table.c.uid == key))
    inbox.sweep(connection, event_ids)
    names_a_channel = select(channels.c.channel_id).where(channels.c.channel_id == key).exists()
    connection.execute(delete(long_names).where(long_names.c.key == key, ~names_a_channel))

"""Everything that is kept of one user, removed."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, select

from app.store import inbox, keys
from app.store.schema import channels, deliveries, devices, long_names, presence, users


def erase(connection: Connection, uid: str, set_aside: Sequence[int] = ()) -> None:
    """Remove a user's devices, settings, presence, waiting pushes and trace, and the contents that only they needed.

    set_aside: the calls that could not be planned and name nobody else; they go with their dead letters.
    """
    key = keys.key(uid)
    mine = deliveries.c.uid == key
    contents = select(deliveries.c.event_id).where(mine, deliveries.c.event_id.is_not(None)).distinct()
    event_ids = list(connection.execute(contents).scalars())
    for table in (deliveries, devices, users, presence):
        connection.execute(delete(table).where(table.c.uid == key))
    for call in set_aside:
        connection.execute(delete(deliveries).where(deliveries.c.event_id == call, deliveries.c.uid == ""))
    inbox.sweep(connection, [*event_ids, *set_aside])
    names_a_channel = select(channels.c.channel_id).where(channels.c.channel_id == key).exists()
    connection.execute(delete(long_names).where(long_names.c.key == key, ~names_a_channel))

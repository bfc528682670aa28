"""How many calls wait to be planned, at a cost that is right for asking every second."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from app.store.schema import NEW, events


def newest(connection: Connection) -> int:
    """The highest id of a call that is kept, 0 where there is none."""
    return int(connection.execute(select(func.max(events.c.id))).scalar() or 0)


def waiting(connection: Connection, most: int) -> int:
    """How many calls wait to be planned, counted up to `most`."""
    some = select(events.c.id).where(events.c.state == NEW).limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())

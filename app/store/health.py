"""What the dispatchers say of themselves, for the web processes to answer with."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from app.store import dialect
from app.store.rows import Health
from app.store.schema import dispatchers


def beat(connection: Connection, health: Health) -> None:
    """Say that this dispatcher is alive, and how it is."""
    row = {"owner": health.owner, "beat_at": health.beat_at, "health": health.health}
    connection.execute(dialect.upsert(connection, dispatchers, ("owner",), ("beat_at", "health")), [row])


def beats(connection: Connection) -> list[Health]:
    query = select(dispatchers.c.owner, dispatchers.c.beat_at, dispatchers.c.health).order_by(dispatchers.c.owner)
    return [Health(*row) for row in connection.execute(query)]


FORGOTTEN = 86_400_000
"""Milliseconds without a word after which a dispatcher was killed and will not come back."""


def forget(connection: Connection, now: int) -> None:
    """Forget dispatchers that have said nothing for a day."""
    connection.execute(delete(dispatchers).where(dispatchers.c.beat_at < now - FORGOTTEN))


def gone(connection: Connection, owner: str) -> None:
    """Say that this dispatcher has stopped in order."""
    connection.execute(delete(dispatchers).where(dispatchers.c.owner == owner))

"""Work that only one dispatcher does at a time: who does it, and until when unless the lease is renewed."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_, update

from app.store import dialect
from app.store.schema import leases


def take(connection: Connection, name: str, owner: str, now: int, until: int) -> bool:
    """Take a lease or renew one's own; False where another owner has it, whose time is not over."""
    row = {"name": name, "owner": owner, "until": until}
    if connection.execute(dialect.insert_new(connection, leases), [row]).rowcount:
        return True
    free = or_(leases.c.owner == owner, leases.c.until < now)
    taken = update(leases).where(leases.c.name == name, free).values(owner=owner, until=until)
    return connection.execute(taken).rowcount > 0


def give_back(connection: Connection, owner: str) -> None:
    """Let go of every lease of this owner."""
    connection.execute(delete(leases).where(leases.c.owner == owner))

"""Rows to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table, select

from app.model import Device, Outcome
from app.store import deliveries, inbox
from app.store.inbox import Arrival
from app.store.rows import Delivery, Event

NOW = 1_785_398_400_000
ME, OTHER = "dispatcher-1", "dispatcher-2"
UIDS = [
    "u1",
    "a-b-1-1-1",
    "x/y?z#%2F",
    " leading and trailing ",
    "\U0001f600" * 5,
    "\U0001f600" * 1_250,
    "u" * 5_000,
    "用户" * 100,
    "nul\x00inside",
    "\x00",
    "\x01starts like a digest",
    "tab\tnew\nline",
    "u" * 60,
    "u" * 61,
    "u" * 240,
    "u" * 241,
    "'; DROP TABLE devices; --",
]
"""Ids that real servers pass on, and the lengths at which the keys change their form."""


def delivery(uid: str = "u1", device_id: str = "d1", **fields: Any) -> Delivery:
    """A delivery of message 2^60 + 1 that is sent, unless `fields` say otherwise."""
    known: dict[str, Any] = {
        "message_id": 2**60 + 1,
        "provider": "ios",
        "outcome": Outcome.SENT,
        "first_at": NOW,
        "at": NOW,
    }
    return Delivery(uid=uid, device_id=device_id, **(known | fields))


def waiting(uid: str = "u1", device_id: str = "d1", **fields: Any) -> Delivery:
    """A delivery that is to be tried again at NOW."""
    return delivery(uid, device_id, **({"outcome": Outcome.RETRYING, "due_at": NOW} | fields))


def stored(db: Connection, *rows: Delivery) -> list[Delivery]:
    """Keep these rows and give them back with their ids, in the order of the ids."""
    deliveries.insert_new(db, rows)
    return sorted(deliveries.trace(db, limit=1_000), key=lambda row: row.id)


def one(db: Connection) -> Delivery:
    """The only delivery there is."""
    (row,) = deliveries.trace(db)
    return row


def arrival(body: bytes = b"{}", **fields: Any) -> Arrival:
    known: dict[str, Any] = {"kind": "msg.offline", "received_at": NOW, "lane": "normal", "weight": 1, "once": True}
    return Arrival(body=body, **(known | fields))


def put(db: Connection, *bodies: bytes, **fields: Any) -> None:
    inbox.put(db, [arrival(body, **fields) for body in bodies])


def claim(
    db: Connection, owner: str = ME, limit: int = 100, weight: int = 10_000, now: int = NOW, lane: str = "normal"
) -> list[Event]:
    """Claim with a lease of 1,000 ms."""
    return inbox.claim(db, lane, limit, weight, owner, now, 1_000)


def bodies(events: Sequence[Event]) -> list[bytes]:
    return [event.body for event in events]


def planned(db: Connection, *contents: bytes) -> list[int]:
    """Events that were planned, and each have a delivery that refers to them; their ids."""
    put(db, *contents)
    ids = [event.id for event in claim(db)]
    for index, event_id in enumerate(ids):
        deliveries.insert_new(db, [waiting(f"user of {index}", event_id=event_id)])
    inbox.planned(db, ids, ME)
    return ids


def rows(db: Connection, table: Table) -> list[Any]:
    return list(db.execute(select(table)).all())


def device(uid: str = "u1", device_id: str = "d1", token: str = "some-token", **fields: Any) -> Device:
    return Device(uid, device_id, fields.pop("provider", "ios"), token, fields.pop("registered_at", NOW), **fields)

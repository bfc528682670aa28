"""The tables. Times are UNIX milliseconds; uids and channel ids are `keys`, see there."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    literal_column,
)
from sqlalchemy.dialects import mysql

from app.model import Outcome

VERSION = "0002"
"""The newest revision in `migrations`, which makes these tables."""

Id = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives out row numbers by itself only for this type."""
Name = (
    String(255)
    .with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_0900_bin"), "mysql")
    .with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
)
"""Compared byte for byte everywhere: uids differ by case, accents and trailing spaces."""
Blob = LargeBinary().with_variant(mysql.LONGBLOB, "mysql", "mariadb")
Digest = LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
"""MySQL takes no BLOB into an index."""

metadata = MetaData()

NEW, PLANNED, FAILED = 0, 1, 2
"""States of an event: to be planned; waiting for its deliveries; set aside because planning it failed too often."""

events = Table(
    "events",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("kind", String(32), nullable=False),
    Column("digest", Digest, nullable=False),
    Column("body", Blob, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("lane", String(8), nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("owner", String(96)),
    Column("lease_until", BigInteger),
    Column("channel", BigInteger, nullable=False, server_default="0"),
    UniqueConstraint("kind", "digest", name="events_once"),
    Index("events_todo", "state", "lane", "id"),
    Index("events_by_channel", "state", "lane", "channel", "id"),
    sqlite_autoincrement=True,  # the id of a call that is gone must not name another
)

Index(
    "events_held",
    events.c.owner,
    sqlite_where=events.c.owner.is_not(None),
    postgresql_where=events.c.owner.is_not(None),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("message_id", BigInteger, nullable=False),
    Column("uid", Name, nullable=False),
    Column("device_id", Name, nullable=False),
    Column("provider", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(255), nullable=False),
    Column("provider_id", String(255), nullable=False),
    Column("source", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("due_at", BigInteger),
    Column("owner", String(96)),
    Column("event_id", BigInteger),
    Column("lane", SmallInteger, nullable=False, server_default="0"),
    Column("channel", BigInteger, nullable=False, server_default="0"),
    Column("expires_at", BigInteger),
    UniqueConstraint("message_id", "uid", "device_id", name="deliveries_once"),
    Index("deliveries_by_user", "uid", "at"),
    Index("deliveries_by_time", "at"),
)
WAITING = deliveries.c.due_at.is_not(None)
Index(
    "deliveries_due",
    deliveries.c.provider,
    deliveries.c.lane,
    deliveries.c.due_at,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
Index(
    "deliveries_by_channel",
    deliveries.c.provider,
    deliveries.c.lane,
    deliveries.c.channel,
    deliveries.c.id,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
EXPIRING = and_(WAITING, deliveries.c.expires_at.is_not(None))
Index(
    "deliveries_expiring",
    deliveries.c.provider,
    deliveries.c.lane,
    deliveries.c.first_at,
    sqlite_where=EXPIRING,
    postgresql_where=EXPIRING,
)
Index(
    "deliveries_held",
    deliveries.c.owner,
    sqlite_where=deliveries.c.owner.is_not(None),
    postgresql_where=deliveries.c.owner.is_not(None),
)
# Written out, as in the indexes: of a value that is bound no database sees beforehand that such an index has its rows.
HELD = deliveries.c.outcome == literal_column(f"'{Outcome.HELD}'")
DEAD = deliveries.c.outcome == literal_column(f"'{Outcome.DEAD}'")
LETTER = and_(DEAD, deliveries.c.event_id.is_not(None))
"""A given-up push whose content is still here."""
Index("deliveries_held_for", deliveries.c.uid, deliveries.c.due_at, sqlite_where=HELD, postgresql_where=HELD)
Index("deliveries_letters", deliveries.c.outcome, deliveries.c.id, sqlite_where=LETTER, postgresql_where=LETTER)
Index(
    "deliveries_by_event",
    deliveries.c.event_id,
    sqlite_where=deliveries.c.event_id.is_not(None),
    postgresql_where=deliveries.c.event_id.is_not(None),
)

devices = Table(
    "devices",
    metadata,
    Column("uid", Name, primary_key=True),
    Column("device_id", Name, primary_key=True),
    Column("provider", String(64), nullable=False),
    Column("token", Text, nullable=False),
    Column("token_digest", Digest, nullable=False),
    Column("voip_token", Text, nullable=False),
    Column("locale", String(64), nullable=False),
    Column("device_flag", Integer, nullable=False),
    Column("app_version", String(64), nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("succeeded_at", BigInteger, nullable=False, server_default="0"),
    Column("removed_at", BigInteger),
    Column("removed_reason", String(255), nullable=False, server_default=""),
    UniqueConstraint("provider", "token_digest", name="devices_by_token"),
)
Index(
    "devices_removed",
    devices.c.removed_at,
    sqlite_where=devices.c.removed_at.is_not(None),
    postgresql_where=devices.c.removed_at.is_not(None),
)

users = Table(
    "users",
    metadata,
    Column("uid", Name, primary_key=True),
    Column("name", String(255), nullable=False),
    Column("locale", String(64), nullable=False),
    Column("show_content", Boolean),
)

channels = Table(
    "channels",
    metadata,
    Column("channel_type", Integer, primary_key=True, autoincrement=False),
    Column("channel_id", Name, primary_key=True),
    Column("name", String(255), nullable=False),
)

presence = Table(
    "presence",
    metadata,
    Column("uid", Name, primary_key=True),
    Column("device_flag", Integer, primary_key=True, autoincrement=False),
    Column("online", Boolean, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("opened", BigInteger),
    Column("count", BigInteger),
    Column("closed", BigInteger),
    Column("closed_at", BigInteger, nullable=False),
)

long_names = Table(
    "long_names",
    metadata,
    Column("key", Name, primary_key=True),
    Column("name", Blob, nullable=False),
)

dispatchers = Table(
    "dispatchers",
    metadata,
    Column("owner", String(96), primary_key=True),
    Column("beat_at", BigInteger, nullable=False),
    Column("health", Text, nullable=False),
)

relay = Table(
    "relay",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("target", String(96), nullable=False),
    Column("kind", String(128), nullable=False),
    Column("digest", Digest, nullable=False),
    Column("body", Blob, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("done_at", BigInteger),
    Index("relay_seen", "target", "kind", "digest"),
    sqlite_autoincrement=True,
)
Index(
    "relay_todo",
    relay.c.target,
    relay.c.kind,
    relay.c.id,
    sqlite_where=relay.c.done_at.is_(None),
    postgresql_where=relay.c.done_at.is_(None),
)
Index(
    "relay_done",
    relay.c.done_at,
    sqlite_where=relay.c.done_at.is_not(None),
    postgresql_where=relay.c.done_at.is_not(None),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(96), primary_key=True),
    Column("owner", String(96), nullable=False),
    Column("until", BigInteger, nullable=False),
)

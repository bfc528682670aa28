"""Turns for channels, a quarantine for devices, the relay's queues, and leases on work that one process does."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"

row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
digest = sa.LargeBinary(length=16).with_variant(mysql.BINARY(16), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("events", sa.Column("channel", sa.BigInteger(), server_default="0", nullable=False))
    op.create_index("events_by_channel", "events", ["state", "lane", "channel", "id"], unique=False)
    op.create_index("events_held", "events", ["owner"], **where("owner IS NOT NULL"))
    op.add_column("deliveries", sa.Column("lane", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("deliveries", sa.Column("channel", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("deliveries", sa.Column("expires_at", sa.BigInteger(), nullable=True))
    op.drop_index("deliveries_due", "deliveries")
    waiting = where("due_at IS NOT NULL")
    op.create_index("deliveries_due", "deliveries", ["provider", "lane", "due_at"], **waiting)
    op.create_index("deliveries_by_channel", "deliveries", ["provider", "lane", "channel", "id"], **waiting)
    expiring = where("due_at IS NOT NULL AND expires_at IS NOT NULL")
    op.create_index("deliveries_expiring", "deliveries", ["provider", "lane", "first_at"], **expiring)
    op.create_index("deliveries_held", "deliveries", ["owner"], **where("owner IS NOT NULL"))
    op.create_index("deliveries_held_for", "deliveries", ["uid", "due_at"], **where("outcome = 'held'"))
    letters = where("outcome = 'dead' AND event_id IS NOT NULL")
    op.create_index("deliveries_letters", "deliveries", ["outcome", "id"], **letters)
    op.add_column("devices", sa.Column("succeeded_at", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("devices", sa.Column("removed_at", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("removed_reason", sa.String(length=255), server_default="", nullable=False))
    op.create_index("devices_removed", "devices", ["removed_at"], **where("removed_at IS NOT NULL"))
    op.create_table(
        "relay",
        sa.Column("id", row_id, autoincrement=True, nullable=False),
        sa.Column("target", sa.String(length=96), nullable=False),
        sa.Column("kind", sa.String(length=128), nullable=False),
        sa.Column("digest", digest, nullable=False),
        sa.Column("body", blob, nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("relay_todo", "relay", ["target", "kind", "id"], **where("done_at IS NULL"))
    op.create_index("relay_seen", "relay", ["target", "kind", "digest"], unique=False)
    op.create_index("relay_done", "relay", ["done_at"], **where("done_at IS NOT NULL"))
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}

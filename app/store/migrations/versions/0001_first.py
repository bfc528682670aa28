"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
name = (
    sa.String(255)
    .with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_0900_bin"), "mysql")
    .with_variant(mysql.VARCHAR(255, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
)
blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
digest = sa.LargeBinary(length=16).with_variant(mysql.BINARY(16), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "channels",
        sa.Column("channel_type", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("channel_id", name, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("channel_type", "channel_id"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", row_id, autoincrement=True, nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("uid", name, nullable=False),
        sa.Column("device_id", name, nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=255), nullable=False),
        sa.Column("provider_id", sa.String(length=255), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_at", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("latency_ms", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.String(length=96), nullable=True),
        sa.Column("event_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", "uid", "device_id", name="deliveries_once"),
    )
    op.create_index(
        "deliveries_by_event",
        "deliveries",
        ["event_id"],
        unique=False,
        sqlite_where=sa.text("event_id IS NOT NULL"),
        postgresql_where=sa.text("event_id IS NOT NULL"),
    )
    op.create_index("deliveries_by_time", "deliveries", ["at"], unique=False)
    op.create_index("deliveries_by_user", "deliveries", ["uid", "at"], unique=False)
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["provider", "due_at"],
        unique=False,
        sqlite_where=sa.text("due_at IS NOT NULL"),
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_table(
        "devices",
        sa.Column("uid", name, nullable=False),
        sa.Column("device_id", name, nullable=False),
        sa.Column("provider", sa.String(length=64), nullable=False),
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("token_digest", digest, nullable=False),
        sa.Column("voip_token", sa.Text(), nullable=False),
        sa.Column("locale", sa.String(length=64), nullable=False),
        sa.Column("device_flag", sa.Integer(), nullable=False),
        sa.Column("app_version", sa.String(length=64), nullable=False),
        sa.Column("registered_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uid", "device_id"),
        sa.UniqueConstraint("provider", "token_digest", name="devices_by_token"),
    )
    op.create_table(
        "dispatchers",
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("health", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "events",
        sa.Column("id", row_id, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("digest", digest, nullable=False),
        sa.Column("body", blob, nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("lane", sa.String(length=8), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("kind", "digest", name="events_once"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_todo", "events", ["state", "lane", "id"], unique=False)
    op.create_table(
        "long_names",
        sa.Column("key", name, nullable=False),
        sa.Column("name", blob, nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "presence",
        sa.Column("uid", name, nullable=False),
        sa.Column("device_flag", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("seen", sa.BigInteger(), nullable=False),
        sa.Column("opened", sa.BigInteger(), nullable=True),
        sa.Column("count", sa.BigInteger(), nullable=True),
        sa.Column("closed", sa.BigInteger(), nullable=True),
        sa.Column("closed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("uid", "device_flag"),
    )
    op.create_table(
        "users",
        sa.Column("uid", name, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("locale", sa.String(length=64), nullable=False),
        sa.Column("show_content", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("uid"),
    )

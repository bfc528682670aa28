"""Brings an older schema up to date. By itself, since most starts find nothing to do and alembic takes long to load."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from app.store.schema import VERSION


def upgrade(connection: Connection) -> str:
    """Bring the schema to the newest version within a transaction; what speaks against it, "" where nothing does."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, VERSION)
    except CommandError as error:
        return str(error)
    return ""

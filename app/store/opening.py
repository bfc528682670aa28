"""Opens the database of a configuration and brings its schema up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from app.store.dialect import Database, WriteLock, open_engine


def open_database(data_dir: Path, url: str = "", durability: str = "full") -> Database:
    """The database at `url`, or the SQLite file in `data_dir`, which is made if it is missing."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = None
    if not url:
        url = f"sqlite:///{(data_dir / 'pushbridge.db').absolute()}"
    if url.startswith("sqlite"):
        lock = WriteLock(data_dir / "write.lock")
    database = Database(open_engine(url, durability), lock)
    migrate(database)
    return database


def migrate(database: Database) -> None:
    """Bring the schema to the newest version; of several processes that start together one does it."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    head = ScriptDirectory.from_config(config).get_current_head()
    with database.read() as connection:
        if _version(connection) == head:
            return
    with database.write() as connection:
        if _version(connection) != head:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()

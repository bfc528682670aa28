"""Opens the database of a configuration and brings its schema up to date."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table

from app.store.dialect import CACHE, Database, DatabaseError, WriteLock, alone, open_engine, reason
from app.store.schema import VERSION

_MAGIC = b"SQLite format 3\x00"


class Unusable(Exception):
    """There is no database to be had; the message says why."""


def open_database(data_dir: Path, url: str = "", durability: str = "full", cache: int = CACHE) -> Database:
    """The database at `url`, or the SQLite file in `data_dir`, which is made if it is missing; raises Unusable."""
    lock = None
    try:
        make_private(data_dir)
        if not url:
            url = f"sqlite:///{_private_file(data_dir).absolute()}"
    except OSError as error:
        raise Unusable(error.strerror) from error
    if url.startswith("sqlite"):
        lock = WriteLock(data_dir / "write.lock")
    database = Database(open_engine(url, durability, cache), lock)
    try:
        # SQLite does not wait for others when it gives a fresh file its write-ahead log: it says that it is locked.
        with lock() if lock else nullcontext(), database.read():
            pass
        migrate(database)
    except DatabaseError as error:
        database.close()
        raise Unusable(reason(error)) from error
    except Unusable:
        database.close()
        raise
    return database


def make_private(data_dir: Path) -> None:
    """Make the folder if it is missing: it holds tokens and texts, so it is its owner's alone."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def _private_file(data_dir: Path) -> Path:
    """The SQLite file in `data_dir`, made if it is missing. What SQLite makes beside it is as private as this one."""
    file = data_dir / "pushbridge.db"
    # Never opened where it is there already: closing it again would end the locks that this process has on it.
    with suppress(FileExistsError):
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not os.access(file, os.R_OK | os.W_OK):
        raise PermissionError(0, f"{file.name} cannot be written")
    return file


def fault(data_dir: Path) -> str:
    """What a look at the SQLite file in `data_dir` tells against it, "" where it is missing or looks right."""
    file = data_dir / "pushbridge.db"
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_MAGIC))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{file.name}: {error.strerror}"
    if start not in (b"", _MAGIC):
        return f"{file.name} is not a database"
    return "" if os.access(file, os.W_OK) else f"{file.name} cannot be written"


def migrate(database: Database) -> None:
    """Bring the schema to VERSION; of several processes that start together one does it. Raises Unusable."""
    with database.read() as connection:
        if _version(connection) == VERSION:
            return
    from app.store import migrating  # noqa: PLC0415 - see there

    with database.write() as connection, alone(connection):
        fault = "" if _version(connection) == VERSION else migrating.upgrade(connection)
    if fault:
        raise Unusable(fault)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(select(column("version_num")).select_from(table("alembic_version"))).scalar()

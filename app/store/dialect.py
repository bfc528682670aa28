"""What differs between databases: opening one, upserts, claiming rows, and who may write when."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, Table, create_engine, event
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.sql.dml import Insert

from app.clock import now_ms

Transaction = Connection
"""What the functions of this package work in: an open connection of `Database.read` or `Database.write`."""
DatabaseError = SQLAlchemyError
"""What reading or writing raises where the database cannot be used."""


class NotLocked(DatabaseError):
    """The file that the writers queue on cannot be used."""


Unavailable = (OperationalError, InterfaceError, NotLocked)
"""What passes by itself: the disk is full, somebody holds the file, the server is away. Nothing was written then."""


def reason(error: DatabaseError) -> str:
    """Why, in the driver's words: one line, without the values of the statement."""
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]


BUSY = 3_000
"""Milliseconds to wait for a program that holds the file without queueing: requests wait for one another meanwhile."""
CHUNK = 500
"""Values in one IN (…) list: some databases allow few parameters, and the statement cache likes one size."""


CACHE = 64 << 10
"""KiB of a SQLite file that a connection keeps in memory."""


def open_engine(url: str, durability: str, cache: int = CACHE) -> Engine:
    """An engine for `url`. `durability`: `full` or `normal`, as in `storage.durability`; `cache`: as CACHE."""
    # hide_parameters: they are tokens and texts, and errors are logged.
    # pool_pre_ping: a server, or what lies between, ends idle connections, and the call that finds out would be lost.
    is_file = url.startswith("sqlite")
    # pool_size 0: a connection for each thread that wants one. Else a writer could wait for one that a reader has, and
    # all processes for the lock that it holds.
    more: dict[str, Any] = {"pool_size": 0} if is_file else {"pool_pre_ping": True}
    engine = create_engine(url, hide_parameters=True, **more)
    if is_file:
        synchronous = "FULL" if durability == "full" else "NORMAL"

        @event.listens_for(engine, "connect")
        def prepare(connection: Any, _record: Any) -> None:
            # The driver's own transactions begin too late and cannot begin for writing.
            connection.isolation_level = None
            pragmas = f"busy_timeout={BUSY}", "journal_mode=WAL", f"synchronous={synchronous}", f"cache_size=-{cache}"
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}").close()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # A reader must neither wait for the writers nor keep them waiting.
            if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
                connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """Keep out whoever wants the same, within a transaction. SQLite lets nobody else write anyhow."""
    name = connection.dialect.name
    if name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ALONE})")
    if name not in _MYSQL:
        yield
        return
    # Not the transaction's: there each change of a table ends one.
    connection.exec_driver_sql(f"SELECT GET_LOCK('pushbridge-{_ALONE}', 3600)")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"SELECT RELEASE_LOCK('pushbridge-{_ALONE}')")


_ALONE = 7_078_746_574
"""Any number that no other program on the same server uses."""
_MYSQL = ("mysql", "mariadb")


class WriteLock:
    """Queues the writers of one SQLite file in the kernel.

    SQLite's own waiting sleeps in growing steps: two busy processes wait for hundreds of milliseconds on it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread_lock = threading.Lock()
        self._fd = -1
        self._pid = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._thread_lock:
            try:
                self._lock()
            except OSError as error:
                raise NotLocked(f"{self._path.name}: {error.strerror}") from error
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> None:
        if self._pid != os.getpid():  # a file opened before a fork would be shared with the parent
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._pid = os.getpid()
        fcntl.flock(self._fd, fcntl.LOCK_EX)


class Database:
    """One open database. Threads may share it; a forked process must open its own.

    reads_at_once: a read waits for nobody, neither a network nor a writer, so that it costs less than another thread.
    observe: told of each write transaction how many seconds it took, or None where the database failed it.
    failed_at: when the last write of this process failed because the database could not be used; None since one worked.
    """

    def __init__(self, engine: Engine, lock: WriteLock | None) -> None:
        self.engine = engine
        self.reads_at_once = engine.dialect.name == "sqlite"
        self._reads = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = lock
        self.observe: Callable[[float | None], None] = lambda _: None
        self.failed_at: int | None = None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end, rolled back on an error."""
        started = time.perf_counter()
        try:
            with self._lock() if self._lock else nullcontext(), self.engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            if isinstance(error, Unavailable):
                self.failed_at = now_ms()
            self.observe(None)
            raise
        self.failed_at = None
        self.observe(time.perf_counter() - started)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._reads.connect() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


# Each is made once: a statement that is another one each time would be compiled each time, which takes longer than
# to insert ten rows.
def insert(connection: Connection, table: Table) -> Insert:
    """A plain INSERT."""
    return _insert(connection.dialect.name, table)  # type: ignore[no-any-return]


def insert_new(connection: Connection, table: Table) -> Insert:
    """INSERT that leaves rows alone that are there already."""
    return _insert_new(connection.dialect.name, table)


@cache
def _insert_new(dialect: str, table: Table) -> Insert:
    statement = _insert(dialect, table)
    if dialect in _MYSQL:
        return statement.prefix_with("IGNORE")  # type: ignore[no-any-return]
    return statement.on_conflict_do_nothing()  # type: ignore[no-any-return]


@cache
def _insert(dialect: str, table: Table) -> Any:
    """The dialect's own INSERT, which knows upserts."""
    module: Any = {"sqlite": sqlite, "postgresql": postgresql}.get(dialect, mysql)
    return module.insert(table)


ROWS = 100
"""Rows in one statement of `insert_rows`."""


def insert_rows(
    connection: Connection, statement: Insert, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> int:
    """Run an INSERT for many rows, given in the order of `columns`; how many were written.

    A hundred rows go into one statement: the driver lets go of the interpreter for each statement that it runs, and
    beside a busy event loop it costs more to get that back than to insert a row.
    """
    sql, order = _compiled(statement, connection.dialect, tuple(columns))
    if order is None:
        named = [dict(zip(columns, row, strict=True)) for row in rows]
        return connection.exec_driver_sql(sql, named).rowcount
    before, group, after = _around_values(sql)
    written = 0
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        many = f"{before}{', '.join([group] * len(some))}{after}"
        written += connection.exec_driver_sql(many, tuple(row[i] for row in some for i in order)).rowcount
    return written


@lru_cache(maxsize=64)
def _compiled(statement: Insert, dialect: Dialect, columns: tuple[str, ...]) -> tuple[str, list[int] | None]:
    """The SQL for one row, and which columns its values are, in their order; None where it names them."""
    compiled = statement.compile(dialect=dialect, column_keys=list(columns))
    names = compiled.positiontup
    return str(compiled), None if names is None else [columns.index(name) for name in names]


def _around_values(sql: str) -> tuple[str, str, str]:
    """An INSERT cut into what stands before its one group of values, the group, and what stands after it."""
    start = sql.index("VALUES (") + len("VALUES ")
    end = sql.index(")", start) + 1
    return sql[:start], sql[start:end], sql[end:]


def upsert(connection: Connection, table: Table, keys: Sequence[str], values: Sequence[str]) -> Insert:
    """INSERT that overwrites `values` where a row with the same `keys` is there already."""
    return _upsert(connection.dialect.name, table, tuple(keys), tuple(values))


@cache
def _upsert(dialect: str, table: Table, keys: tuple[str, ...], values: tuple[str, ...]) -> Insert:
    statement = _insert(dialect, table)
    if dialect in _MYSQL:
        return statement.on_duplicate_key_update(  # type: ignore[no-any-return]
            {name: statement.inserted[name] for name in values}
        )
    return statement.on_conflict_do_update(  # type: ignore[no-any-return]
        index_elements=keys, set_={name: statement.excluded[name] for name in values}
    )


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Slices short enough for one IN (…) list."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]

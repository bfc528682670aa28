from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.store import deliveries, devices, dialect, inbox, opening, schema
from app.store.dialect import Database
from app.store.opening import Unusable, fault, migrate, open_database
from app.store.schema import metadata
from tests.store.kit import arrival, bodies, claim

OPEN_AND_PUT = """
import sys
from pathlib import Path
from app.store import inbox
from app.store.opening import open_database

print("ready", flush=True)
sys.stdin.readline()
database = open_database(Path(sys.argv[1]), durability="normal")
with database.write() as connection:
    inbox.put(connection, [inbox.Arrival("test", sys.argv[2].encode(), 1, "normal", 1, True)])
database.close()
"""


def test_the_migrations_make_the_schema(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_opening_again_changes_nothing(url: str, folder: Path) -> None:
    first = open_database(folder, url, "normal")
    with first.write() as connection:
        inbox.put(connection, [arrival(b"kept")])
    first.close()
    second = open_database(folder, url, "normal")
    migrate(second)
    with second.write() as connection:
        assert bodies(claim(connection)) == [b"kept"]
    second.close()


def first_version(folder: Path, statements: Sequence[str]) -> None:
    """A database of the first schema version, after these statements."""
    config = Config()
    config.set_main_option("script_location", str(Path(opening.__file__).parent / "migrations"))
    engine = dialect.open_engine(f"sqlite:///{folder}/pushbridge.db", "normal")
    with closing(Database(engine, None)) as old, old.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    first_version(tmp_path, ROWS_OF_THE_FIRST_VERSION)
    with closing(open_database(tmp_path)) as database, database.write() as connection:
        assert bodies(claim(connection)) == [b"kept"]
        (due,) = deliveries.claim_due(connection, "ios", 0, 10, "me", now=5, lease=100)
        assert (due.message_id, due.uid, due.due_at) == (7, "bob", 5)
        assert [device.token for device in devices.of_users(connection, ["bob"])["bob"]] == ["aabb"]


ROWS_OF_THE_FIRST_VERSION = (
    "INSERT INTO events (kind, digest, body, weight, lane, state, received_at, not_before, attempts)"
    " VALUES ('msg.offline', x'01', CAST('kept' AS BLOB), 1, 'normal', 0, 1, 0, 0)",
    "INSERT INTO deliveries (message_id, uid, device_id, provider, outcome, reason, provider_id, source,"
    " attempts, first_at, at, latency_ms, due_at)"
    " VALUES (7, 'bob', 'd', 'ios', 'retrying', '', '', 'msg.offline', 1, 1, 1, 0, 5)",
    "INSERT INTO devices VALUES ('bob', 'd', 'ios', 'aabb', x'02', '', '', 0, '', 1, 1)",
)


def test_the_newest_version_is_the_one_that_is_named() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(opening.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.VERSION


def test_a_folder_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    database = open_database(folder)
    with database.read() as connection:
        assert inbox.depth(connection) == {}
    database.close()


def test_several_processes_open_a_fresh_folder_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AND_PUT, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    assert [process.stdout.readline() for process in processes if process.stdout] == [b"ready\n"] * 4
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate(timeout=30)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    database = open_database(folder)
    with database.read() as connection:
        assert inbox.depth(connection) == {"normal": (4, 1)}
    database.close()


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_is_what_sqlite_is_told(folder: Path, durability: str, level: int) -> None:
    database = open_database(folder, durability=durability)
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()


def test_a_failed_transaction_leaves_nothing(database: Database) -> None:
    def fail() -> None:
        with database.write() as connection:
            inbox.put(connection, [arrival(b"a")])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with database.write() as connection:
        assert claim(connection) == []


def test_a_reader_waits_for_no_writer_and_sees_only_what_is_committed(database: Database) -> None:
    with database.write() as connection:
        inbox.put(connection, [arrival(b"a")])
        with database.read() as reader:
            assert inbox.depth(reader) == {}
    with database.read() as reader:
        assert inbox.depth(reader) == {"normal": (1, arrival().received_at)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    database = open_database(folder)
    with database.write() as connection:
        inbox.put(connection, [arrival()])
    assert mode(folder) == 0o700
    files = ("pushbridge.db", "pushbridge.db-wal", "pushbridge.db-shm", "write.lock")
    assert {file.name: mode(file) for file in folder.iterdir()} == dict.fromkeys(files, 0o600)
    database.close()


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    open_database(tmp_path).close()
    assert mode(tmp_path) == 0o750


GARBAGE = b"This is a note to myself, and no database. " * 100


@pytest.mark.parametrize("content", [GARBAGE, None])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "pushbridge.db"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    with pytest.raises(Unusable, match=r"^[^\n]*database[^\n]*$"):
        open_database(tmp_path)
    assert "pushbridge.db" in fault(tmp_path)


@pytest.mark.parametrize("folder", [Path("/proc/inside/data"), Path(__file__), Path(__file__) / "data"])
def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    with pytest.raises(Unusable, match=r"^[A-Z][a-z ]+$"):
        open_database(folder)


def test_a_file_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anything
    with pytest.raises(Unusable, match=r"^pushbridge\.db cannot be written$"):
        open_database(folder)
    assert fault(folder) == "pushbridge.db cannot be written"


def test_a_schema_that_came_later(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "pushbridge.db", isolation_level=None)) as other:
        other.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Unusable, match="9999"):
        open_database(folder)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another program keeps everybody out."""
    with closing(sqlite3.connect(folder / "pushbridge.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        yield


def test_a_database_that_another_program_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "BUSY", 0)
    with held(folder), pytest.raises(Unusable, match=r"^database is locked$"):
        open_database(folder)
    open_database(folder).close()


def test_nothing_is_said_against_a_good_file_or_none(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert fault(folder) == ""
    assert fault(tmp_path_factory.mktemp("none")) == ""


def test_requests_behind_a_foreign_lock_wait_for_seconds_only(database: Database) -> None:
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 3_000


def test_a_write_waits_for_no_connection_that_a_reader_has(folder: Path) -> None:
    """It has the lock of all writers by then."""
    database = open_database(folder)
    with ExitStack() as readers:
        for _ in range(20):
            readers.enter_context(database.read())
        with database.write() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    database.close()

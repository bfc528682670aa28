from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from app.store import inbox
from app.store.dialect import Database
from app.store.opening import migrate, open_database
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

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from app.store import inbox, relay
from app.store.dialect import Database, WriteLock
from app.store.inbox import Arrival
from app.store.opening import open_database
from app.store.writer import MOST, GroupCommit, NotStored
from tests.e2e.service import until
from tests.store.kit import arrival

PATIENCE = 20.0


def depth(database: Database) -> int:
    with database.read() as connection:
        return sum(count for count, _ in inbox.depth(connection).values())


class Commits:
    """Counts the transactions of a database."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        event.listen(database.engine, "commit", self._note)

    def _note(self, _connection: Connection) -> None:
        self.count += 1


class Gate(Database):
    """A database whose writers wait until it is opened. arrived: set when the first one waits."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.engine, None)
        self.arrived, self.open = threading.Event(), threading.Event()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        self.arrived.set()
        assert self.open.wait(PATIENCE)
        with super().write() as connection:
            yield connection


def test_it_is_durable_when_put_returns(database: Database, url: str, folder: Path) -> None:
    GroupCommit(database).put(arrival(b"a"), PATIENCE)
    other = open_database(folder, url)
    assert depth(other) == 1
    other.close()


def test_a_repeat_is_no_error(database: Database) -> None:
    writer = GroupCommit(database)
    for _ in range(3):
        writer.put(arrival(b"a"), PATIENCE)
    assert depth(database) == 1


def relay_copy(body: bytes) -> relay.Copy:
    return relay.Copy("h:80/1", "msg.offline", body, 1, True)


def test_a_call_and_its_copies_are_kept_together(database: Database) -> None:
    writer = GroupCommit(database)
    writer.put(arrival(b"a"), PATIENCE, [relay_copy(b"a")])
    writer.put(None, PATIENCE, [relay_copy(b"b")])
    with database.read() as connection:
        assert [event.body for event in relay.head(connection, "h:80/1", "msg.offline", 9, 9)] == [b"a", b"b"]
    assert depth(database) == 1


def test_nothing_is_kept_of_a_call_whose_copies_are_not(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE relay RENAME TO away")
    with pytest.raises(NotStored):
        GroupCommit(database).put(arrival(b"a"), PATIENCE, [relay_copy(b"a")])
    assert depth(database) == 0


def test_many_threads_lose_nothing(database: Database) -> None:
    writer = GroupCommit(database)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda n: writer.put(arrival(str(n).encode()), PATIENCE), range(500)))
    assert depth(database) == 500


def put_together(database: Database, *arrivals: Arrival) -> list[BaseException | None]:
    """Put one, and these together while it is committed; what became of these."""
    gate = Gate(database)
    writer = GroupCommit(gate)
    with ThreadPoolExecutor(len(arrivals) + 1) as threads:
        first = threads.submit(writer.put, arrival(b"first"), PATIENCE)
        assert gate.arrived.wait(PATIENCE)
        futures = [threads.submit(writer.put, each, PATIENCE) for each in arrivals]
        until(lambda: writer._queue.qsize() == len(arrivals), "all have queued")
        gate.open.set()
        first.result(PATIENCE)
        said = [future.exception(PATIENCE) for future in futures]
    writer.put(arrival(b"last"), PATIENCE)
    return said


def test_what_gathers_while_one_commits_is_committed_together(database: Database) -> None:
    commits = Commits(database)
    assert put_together(database, *(arrival(str(number).encode()) for number in range(19))) == [None] * 19
    assert depth(database) == 21
    assert commits.count == 3
    assert MOST >= 20


@pytest.mark.parametrize("bad", [{"kind": "msg.\udc80"}, {"body": b"too long"}], ids=["no database error", "refused"])
def test_a_call_that_cannot_be_written_costs_no_other(database: Database, bad: dict[str, Any]) -> None:
    with database.write() as connection:
        refuse = "BEFORE INSERT ON events WHEN NEW.body = CAST('too long' AS BLOB) BEGIN SELECT RAISE(ABORT, 'no'); END"
        connection.exec_driver_sql(f"CREATE TRIGGER refuse {refuse}")
    said = put_together(database, arrival(b"a"), arrival(**bad), arrival(b"b"))
    assert [type(error) for error in said] == [type(None), NotStored, type(None)]
    assert "cannot be written" in str(said[1])
    assert depth(database) == 4


def test_what_nobody_waits_for_any_more_is_not_written(database: Database) -> None:
    gate = Gate(database)
    writer = GroupCommit(gate)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(writer.put, arrival(b"first"), PATIENCE)
        assert gate.arrived.wait(PATIENCE)
        copies = Copies([relay_copy(b"late")])
        kept = weakref.ref(copies)
        with pytest.raises(NotStored, match="in time"):
            writer.put(arrival(b"late"), 0, copies)
        del copies
        gc.collect()
        assert kept() is None, "it takes no memory, however long the database is held"
        gate.open.set()
        first.result(PATIENCE)
    writer.put(arrival(b"last"), PATIENCE)
    assert depth(database) == 2


class Copies(list[relay.Copy]):
    """Those whose end can be watched."""


def test_the_time_to_wait_is_bounded(database: Database) -> None:
    gate = Gate(database)
    writer = GroupCommit(gate)
    with pytest.raises(NotStored, match="in time"):
        writer.put(arrival(b"a"), 0.01)
    gate.open.set()
    writer.put(arrival(b"b"), PATIENCE)


def test_a_failure_is_told_and_does_not_last(database: Database, folder: Path) -> None:
    writer = GroupCommit(database)
    writer.put(arrival(b"before"), PATIENCE)
    database.close()
    file, away = folder / "pushbridge.db", folder / "away"
    for suffix in ("-wal", "-shm"):
        (folder / f"pushbridge.db{suffix}").unlink(missing_ok=True)
    file.rename(away)
    file.mkdir()
    with pytest.raises(NotStored, match="cannot be written"):
        writer.put(arrival(b"lost"), PATIENCE)
    file.rmdir()
    away.rename(file)
    writer.put(arrival(b"after"), PATIENCE)
    assert depth(database) == 2


def hold(path: Path, pipe: Pipe) -> None:
    lock = WriteLock(path)
    with lock():
        pipe.send("held")
        pipe.recv()
    pipe.send("free")


def child(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def test_the_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    path = tmp_path / "write.lock"
    ours, theirs = multiprocessing.Pipe()
    process = child(hold, path, theirs)
    assert ours.poll(PATIENCE)
    assert ours.recv() == "held"
    entered = threading.Event()

    def enter() -> None:
        with WriteLock(path)():
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    assert not entered.wait(0.1)
    ours.send("let go")
    assert entered.wait(PATIENCE)
    thread.join(PATIENCE)
    process.join(PATIENCE)
    assert process.exitcode == 0


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "write.lock"
    ours, theirs = multiprocessing.Pipe()
    process = child(hold, path, theirs)
    assert ours.poll(PATIENCE)
    process.kill()
    process.join(PATIENCE)
    with WriteLock(path)():
        pass


def test_the_lock_keeps_other_threads_out_and_opens_after_an_error(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "write.lock")
    inside, most = 0, 0

    def enter(number: int) -> None:
        nonlocal inside, most
        with lock():
            inside += 1
            most = max(most, inside)
            inside -= 1
            if number % 2:
                raise RuntimeError

    with ThreadPoolExecutor(8) as threads:
        results = [threads.submit(enter, number) for number in range(40)]
    assert most == 1
    assert sum(result.exception() is not None for result in results) == 20


def test_only_its_owner_may_read_the_lock(tmp_path: Path) -> None:
    with WriteLock(tmp_path / "write.lock")():
        assert os.stat(tmp_path / "write.lock").st_mode & 0o777 == 0o600

"""A process that is killed while it brings an old database up to date: the next one finds all of it, and finishes."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from app.store.opening import open_database
from tests.e2e.service import until
from tests.processes import is_stopped, is_writing, send
from tests.store.test_opening import first_version

ROWS = 20_000
SEED = int(os.environ.get("CRASH_SEED", 0)) or random.SystemRandom().randrange(1, 1 << 32)
_NUMBERS = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
MANY_ROWS = (
    "INSERT INTO events (kind, digest, body, weight, lane, state, received_at, not_before, attempts) "
    + _NUMBERS
    + "SELECT 'msg.offline', randomblob(16), randomblob(300), 1, 'normal', i % 2, i, 0, 0 FROM n",
    "INSERT INTO deliveries (message_id, uid, device_id, provider, outcome, reason, provider_id, source,"
    " attempts, first_at, at, latency_ms, due_at, event_id) "
    + _NUMBERS
    + "SELECT i, 'u' || i, 'd', 'ios', 'retrying', '', '', 'msg.offline', 1, 1, 1, 0, i, i FROM n",
    "INSERT INTO devices "
    + _NUMBERS
    + "SELECT 'u' || i, 'd', 'ios', 'aabb', randomblob(16), '', '', 0, '', 1, 1 FROM n",
)
CONTENT = (
    "SELECT id, kind, digest, body, state FROM events ORDER BY id",
    "SELECT message_id, uid, outcome, due_at, event_id FROM deliveries ORDER BY id",
    "SELECT uid, device_id, token, token_digest FROM devices ORDER BY uid",
)


def migrate(folder: Path, begun: Connection) -> None:
    begun.send(True)
    open_database(folder).close()
    begun.send(True)


def content(folder: Path) -> tuple[object, ...]:
    with closing(sqlite3.connect(folder / "pushbridge.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return tuple(database.execute(query).fetchall() for query in CONTENT)


def kill(pid: int, folder: Path, begun: Connection, aimed: bool) -> bool:
    """Kill it, if `aimed` not before it is within its transaction; whether it was."""

    def is_within() -> bool:
        send(signal.SIGSTOP, [pid])
        until(lambda: is_stopped(pid), "it is stopped")
        within = (folder / "write.lock").exists() and is_writing(folder, pid)
        if aimed and not within:
            send(signal.SIGCONT, [pid])
        return within

    if aimed:
        until(lambda: begun.poll() or is_within(), "it is within its transaction")
    within = is_within()
    send(signal.SIGKILL, [pid])
    return within


def version(folder: Path) -> Any:
    with closing(sqlite3.connect(folder / "pushbridge.db")) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchone()


@pytest.mark.soak
def test_a_killed_migration_loses_nothing(tmp_path: Path, soak: bool) -> None:
    print(f"CRASH_SEED={SEED}")
    chance = random.Random(SEED)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["app.store.opening", "alembic.command", "tests.store.test_killed_migration"])
    old = tmp_path / "old"
    old.mkdir()
    first_version(old, MANY_ROWS)
    before = content(old)
    open_database(tmp_path / "new").close()
    newest, whole, within = version(tmp_path / "new"), 0.0, 0
    assert version(old) != newest
    for number in range(60 if soak else 5):
        folder = tmp_path / str(number)
        shutil.copytree(old, folder)
        begun, end = context.Pipe(duplex=False)
        process = context.Process(target=migrate, args=(folder, end))
        process.start()
        begun.recv()
        started = time.monotonic()
        if whole:
            aimed = number % 2 == 1
            begun.poll(0 if aimed else chance.uniform(0, whole))
            within += kill(process.pid or 0, folder, begun, aimed)
        process.join()
        whole = whole or time.monotonic() - started
        open_database(folder).close()
        assert content(folder) == before
        assert version(folder) == newest
        shutil.rmtree(folder)
    assert within

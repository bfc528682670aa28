"""What the tests of crashes ask about a process that they have stopped."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.processes import keeps_readers_out

HOLDS = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX if sys.argv[2] == "WRITE" else fcntl.LOCK_SH, 1, int(sys.argv[3]))
print("it has it", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize(
    ("kind", "byte", "expected"),
    [("WRITE", 124, True), ("WRITE", 122, True), ("READ", 124, False), ("WRITE", 120, False), ("WRITE", 123, False)],
    ids=["sets a read mark", "rebuilds", "reads", "writes", "checkpoints"],
)
def test_who_keeps_readers_out(tmp_path: Path, kind: str, byte: int, expected: bool) -> None:
    with closing(sqlite3.connect(tmp_path / "pushbridge.db")) as database:
        database.executescript("PRAGMA journal_mode=WAL; CREATE TABLE some (value);")
        command = [sys.executable, "-c", HOLDS, str(tmp_path / "pushbridge.db-shm"), kind, str(byte)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert keeps_readers_out(tmp_path, process.pid) is expected
            process.communicate()

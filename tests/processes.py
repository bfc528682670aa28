"""What Linux says of processes, for tests that kill some."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def stat(process: Path) -> list[str]:
    """State, parent, group and session of a process or thread, given by its folder in /proc."""
    return (process / "stat").read_text().rpartition(")")[2].split()[:4]


def send(signum: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signum)


def is_stopped(pid: int) -> bool:
    """Whether all its threads are, or it is gone."""
    try:
        return all(stat(thread)[0] in "TZ" for thread in Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # a thread has ended between the list and the look
        return not Path(f"/proc/{pid}").exists()


def is_writing(data: Path, pid: int) -> bool:
    """Whether this process is within a write transaction on the SQLite file in that folder."""
    return any(True for _ in _locks(data / "write.lock", pid))


RECOVERY, READ_MARKS = 122, range(124, 128)
"""Bytes of SQLite's shared memory file: locked while it is rebuilt, and while it is set how far a reader reads."""


def keeps_readers_out(data: Path, pid: int) -> bool:
    """Whether this process has one of those to itself, mostly for microseconds.

    Stopped then, it has readers wait until they give up: "database is locked", or "locking protocol" after ten seconds.
    """
    own = [(first, last) for kind, first, last in _locks(data / "pushbridge.db-shm", pid) if kind == "WRITE"]
    return any(first <= byte <= last for byte in (RECOVERY, *READ_MARKS) for first, last in own)


def _locks(file: Path, pid: int) -> Iterator[tuple[str, int, int]]:
    """What this process has locked of a file: READ or WRITE, the first and the last byte."""
    inode = file.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        if "->" not in line:  # that one waits
            _, _, _, kind, owner, locked, first, last = line.split()
            if int(owner) == pid and locked.endswith(f":{inode}"):
                yield kind, int(first), sys.maxsize if last == "EOF" else int(last)

"""What Linux says of processes, for tests that kill some."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
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
    inode = (data / "write.lock").stat().st_ino
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return any(int(owner) == pid and file.endswith(f":{inode}") for _, kind, _, _, owner, file, *_ in held)

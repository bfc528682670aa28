"""The files in which the processes of a service share what they count.

The Prometheus library gives each process two files and reads all of them for a scrape. What is here keeps them few,
readable and safe. It must run before the library is imported, so it imports nothing of it by itself.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

log = structlog.get_logger()

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
KINDS = ("counter", "histogram")
PAST = "past"
"""In place of a process id: what the processes that are gone have counted."""
ROOM = 128 << 10
"""Bytes of a file: several times what one process needs."""
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder made in it is ours alone


def share(folder: Path) -> None:
    """Count into `folder` from now on, in this process; on a full disk into memory, where no other process looks."""
    os.environ[FOLDER] = str(folder)
    try:
        _reserve(folder)
    except OSError as error:
        log.warning("what this process counts is not shown", action="metrics", error=error.strerror)
        alone = tempfile.mkdtemp(prefix="pushbridge-", dir=MEMORY if MEMORY.is_dir() else None)
        atexit.register(shutil.rmtree, alone, ignore_errors=True)
        os.environ[FOLDER] = alone


def _reserve(folder: Path) -> None:
    """Have this process's files on the disk: the library maps empty ones, and on a full disk a write to them kills."""
    with _locked(folder, fcntl.LOCK_SH):
        for kind in KINDS:
            file = folder / f"{kind}_{os.getpid()}.db"
            if _values(file) is None:
                new = file.with_suffix(".new")
                new.write_bytes(bytes(ROOM))
                new.rename(file)  # whole, for whoever reads it meanwhile


@contextmanager
def reading() -> Iterator[None]:
    """Nothing is moved from one file to another meanwhile."""
    with _locked(Path(os.environ[FOLDER]), fcntl.LOCK_SH):
        yield


def keep_past(folder: Path, is_alive: Callable[[int], bool]) -> None:
    """Put together what processes that are gone have counted, so that no sum goes down and the files stay few."""
    with _locked(folder, fcntl.LOCK_EX):
        for unfinished in folder.glob("*.new"):
            unfinished.unlink()
        for kind in KINDS:
            gone = [file for file in folder.glob(f"{kind}_*.db") if not _is_used(file, is_alive)]
            if gone:
                past = folder / f"{kind}_{PAST}.db"
                _write(_sums([past, *gone]), past)
                for file in gone:
                    file.unlink()


def _is_used(file: Path, is_alive: Callable[[int], bool]) -> bool:
    pid = file.stem.partition("_")[2]
    return is_alive(int(pid)) if pid.isdigit() else pid == PAST


def _sums(files: Iterable[Path]) -> dict[str, float]:
    """Counts and the buckets of histograms alike are sums."""
    sums: dict[str, float] = {}
    for file in files:
        for key, value in _values(file) or ():
            sums[key] = sums.get(key, 0) + value
    return sums


def _values(file: Path) -> list[tuple[str, float]] | None:
    """What is in a file; None where there is none, or none that can be read."""
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415 - it looks at the environment

    try:
        found = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in found if json.loads(key)]
    except FileNotFoundError:
        return None
    except (RuntimeError, ValueError, struct.error):
        # The power failed while it was written.
        log.warning("what a process counted cannot be read", action="metrics", file=file.name)
        return None


def _write(sums: dict[str, float], file: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415

    new = file.with_suffix(".new")
    new.write_bytes(bytes(ROOM))
    values = MmapedDict(new)  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
    values.close()  # type: ignore[no-untyped-call]
    new.replace(file)


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)

"""How full the bridge may become: above that, calls are refused before anything breaks."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from app.store import backlog
from app.store.dialect import Database, DatabaseError

EVERY = 1.0
"""Seconds between two looks of one process: calls in between are answered with what the last one found."""

log = structlog.get_logger()


class Fault(Struct, frozen=True):
    """A bound that is passed. `title` is for people who look, `message` for whoever was refused."""

    title: str
    message: str


class Bounds:
    """Looks whether there is room for another call, at most once a second. Thread-safe.

    min_free: bytes that the file system of `data_dir` must have left. max_backlog: calls that may wait to be planned.
    """

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        min_free: int,
        max_backlog: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._data_dir = data_dir
        self.min_free = min_free
        self.max_backlog = max_backlog
        self._clock = clock
        self._looking = threading.Lock()
        self._next = clock()
        self._counted: tuple[int, int] | None = None
        self.free = 0
        self.disk: Fault | None = None
        self.backlog: Fault | None = None

    def look(self) -> None:
        """Bring `free`, `disk` and `backlog` up to date, unless that was done lately or another thread is about to."""
        if self._clock() < self._next or not self._looking.acquire(blocking=False):
            return
        try:
            self.disk = self._changed("disk", self.disk, self._look_at_disk())
            self.backlog = self._changed("backlog", self.backlog, self._look_at_backlog())
        finally:
            self._next = self._clock() + EVERY
            self._looking.release()

    def _changed(self, bound: str, before: Fault | None, after: Fault | None) -> Fault | None:
        if after and not before:
            log.error("calls are refused", action="bounds", bound=bound, why=after.message)
        if before and not after:
            log.warning("calls are taken again", action="bounds", bound=bound)
        return after

    def _look_at_disk(self) -> Fault | None:
        try:
            self.free = shutil.disk_usage(self._data_dir).free
        except OSError:
            return self.disk  # whoever writes next will say what is wrong
        if self.free >= self.min_free:
            return None
        return Fault(
            f"disk nearly full: {self.free >> 20} MiB free",
            f"storage.min_free: found {self.free} bytes free on the disk; allowed: {self.min_free} bytes or more",
        )

    def _look_at_backlog(self) -> Fault | None:
        try:
            waiting = self._waiting()
        except DatabaseError:
            return self.backlog
        if waiting <= self.max_backlog:
            return None
        return Fault(
            f"backlog: more than {self.max_backlog} calls wait to be planned",
            f"storage.max_backlog: more than {self.max_backlog} calls wait to be planned; allowed: {self.max_backlog}",
        )

    def _waiting(self) -> int:
        """How many calls wait, or more: counted only where those that came since the last count could be too many."""
        with self._database.read() as connection:
            newest = backlog.newest(connection)
            if self._counted is not None:
                waited, newest_then = self._counted
                if waited + max(0, newest - newest_then) <= self.max_backlog:
                    return waited
            waiting = backlog.waiting(connection, self.max_backlog + 1)
        self._counted = waiting, newest
        return waiting

"""Group commit for the web processes: whatever has gathered is committed together by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.store import inbox, relay
from app.store.dialect import Database
from app.store.inbox import Arrival

MOST = 256
"""Calls in one transaction."""

log = structlog.get_logger()


class NotStored(Exception):
    """The call could not be made durable; the message says why."""


@dataclass
class _Waiting:
    arrival: Arrival | None
    copies: Sequence[relay.Copy]
    done: Future[None] = field(default_factory=Future)


class GroupCommit:
    """Keeps what calls bring. Many threads may wait at once: they share one transaction and one flush to the disk."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, arrival: Arrival | None, timeout: float, copies: Sequence[relay.Copy] = ()) -> None:
        """Return once the arrival, where there is one, and the copies for relay targets are durable, all or none.

        Raises NotStored, after `timeout` seconds at the latest.
        """
        with self._start:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()
        waiting = _Waiting(arrival, copies)
        self._queue.put(waiting)
        try:
            waiting.done.result(timeout)
        except FutureTimeout:
            raise NotStored("the database did not take it in time") from None

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < MOST:
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            self._commit(batch)

    def _commit(self, batch: list[_Waiting]) -> None:
        try:
            with self._database.write() as connection:
                inbox.put(connection, [waiting.arrival for waiting in batch if waiting.arrival])
                relay.put(connection, [copy for waiting in batch for copy in waiting.copies])
        except (SQLAlchemyError, OSError) as error:
            log.error("inbox not writable", action="put", error=type(error).__name__, calls=len(batch))
            for waiting in batch:
                waiting.done.set_exception(NotStored("the database cannot be written"))
            return
        for waiting in batch:
            waiting.done.set_result(None)

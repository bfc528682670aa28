"""Group commit for the web processes: whatever has gathered is committed together by one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import structlog

from app.store import inbox, relay
from app.store.dialect import Database, Unavailable
from app.store.inbox import Arrival

MOST = 256
"""Calls in one transaction."""

log = structlog.get_logger()


class NotStored(Exception):
    """The call could not be made durable; the message says why."""


@dataclass
class _Waiting:
    """content: None once its caller has given up; the whole is set at once, as both threads look at it."""

    content: tuple[Arrival | None, Sequence[relay.Copy]] | None
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
        waiting = _Waiting((arrival, copies))
        self._queue.put(waiting)
        try:
            waiting.done.result(timeout)
        except FutureTimeout:
            # What nobody waits for any more must not pile up while the database is held.
            waiting.content = None
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
        """Keep these calls. Where that fails though the database can be used, one may be the reason: each by itself."""
        error = self._store(batch)
        if error is None:
            return
        if len(batch) > 1 and not isinstance(error, Unavailable):
            failed = [waiting for waiting in batch if self._store([waiting]) is not None]
        else:
            failed = batch
        for waiting in failed:
            waiting.done.set_exception(NotStored("the database cannot be written"))
        log.error("inbox not writable", action="put", error=type(error).__name__, calls=len(failed), tried=len(batch))

    def _store(self, batch: list[_Waiting]) -> Exception | None:
        """Keep these calls in one transaction; what it failed with. Without those whose callers have given up."""
        contents = [content for waiting in batch if (content := waiting.content) is not None]
        try:
            if contents:
                with self._database.write() as connection:
                    inbox.put(connection, [arrival for arrival, _ in contents if arrival])
                    relay.put(connection, [copy for _, copies in contents for copy in copies])
        except Exception as error:  # whatever it is, it must not end the thread: the others would wait in vain
            return error
        for waiting in batch:
            waiting.done.set_result(None)
        return None

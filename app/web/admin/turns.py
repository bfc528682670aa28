"""Requests that take long: of each kind a process works on one at a time, so that threads are left for webhooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from app.web.errors import ApiError

AT_ONCE = 1
"""Requests of one kind in one process: test pushes that are waited for are a kind, imports and restores another."""
RETRY_AFTER = 5
"""Seconds."""


@contextmanager
def turn(of: BoundedSemaphore, busy: str) -> Iterator[None]:
    """Hold one of these turns; raises ApiError at once, with `busy` as its message, where there is none.

    Waiting for one would take the thread that it is to leave free.
    """
    if not of.acquire(blocking=False):
        raise ApiError(429, "too_many_requests", busy, {"Retry-After": str(RETRY_AFTER)})
    try:
        yield
    finally:
        of.release()

"""Accepts one event, whatever brought it: check the body, put it in the inbox, say that it is durable."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from app import events
from app.clock import now_ms
from app.store.inbox import Arrival
from app.store.writer import GroupCommit

TEST = "test"
RESCUE = "rescue"
"""The kind of a call that the dispatcher makes itself: a message that `msg.offline` should have brought."""
STATUS_LANE, NOW_LANE, NORMAL_LANE, BULK_LANE, NOTIFY_LANE = "status", "now", "normal", "bulk", "notify"
LANES = (NOW_LANE, NORMAL_LANE, BULK_LANE)
"""The lanes that messages are planned from, beside one another; statuses are applied before any.

What lies in `notify` is held against what these have brought.
"""

BULK_FROM = 1_000
"""Recipients from which a message must not stand before others."""

PATIENCE = 4.0
"""Seconds to wait for the disk: v3 hangs up after five."""


class TestPush(msgspec.Struct, frozen=True):
    """The body of a test event: a push that nobody wrote."""

    message_id: int
    uid: str
    title: str
    body: str


class Intake:
    """The way into the inbox. Thread-safe.

    notify_after: milliseconds after which `msg.notify` is held against `msg.offline`; None = it is not kept.
    """

    def __init__(self, writer: GroupCommit, poke: Callable[[], None], notify_after: int | None = None) -> None:
        self._writer = writer
        self._poke = poke
        self._notify_after = notify_after

    def accept(self, kind: str, body: bytes) -> int:
        """Return the number of elements once the event is durable.

        Raises events.BadEvent where the body is not what the event calls for, store.writer.NotStored where it could
        not be kept.
        """
        measure = events.measure(kind, body)
        if kind == events.NOTIFY:
            if self._notify_after is not None:
                now = now_ms()
                later = now + self._notify_after
                self._writer.put(
                    Arrival(kind, body, now, NOTIFY_LANE, measure.weight, once=True, not_before=later), PATIENCE
                )
            return measure.weight
        if kind == events.STATUS:
            # A user may really go online twice under the same connection id: the server counts anew when it restarts.
            self._put(kind, body, STATUS_LANE, measure, once=False)
        else:
            self._put(kind, body, lane_of(measure), measure, once=True)
        return measure.weight

    def test(self, uid: str, title: str, body: str) -> int:
        """Have a test push sent to each device of a user; the message id to look its outcomes up by."""
        push = TestPush(time.time_ns(), uid, title, body)
        self._put(TEST, msgspec.json.encode(push), NOW_LANE, events.Measure(1), once=True)
        return push.message_id

    def _put(self, kind: str, body: bytes, lane: str, measure: events.Measure, once: bool) -> None:
        self._writer.put(Arrival(kind, body, now_ms(), lane, measure.weight, once, measure.channel), PATIENCE)
        self._poke()


def lane_of(measure: events.Measure) -> str:
    """The lane of a message; one for a great many people must not stand before others, whomever it calls."""
    if measure.weight > BULK_FROM:
        return BULK_LANE
    return NOW_LANE if measure.urgent else NORMAL_LANE

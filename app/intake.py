"""Accepts one event, whatever brought it: check the body, put it in the inbox, say that it is durable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import msgspec

from app import events
from app.bounds import Bounds
from app.clock import now_ms
from app.relay import Target
from app.store.inbox import Arrival
from app.store.relay import Copy
from app.store.writer import GroupCommit, NotStored

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

LARGE = 256 << 10
"""Bytes from which bodies are checked one after another."""

PATIENCE = 4.0
"""Seconds to wait for the disk: v3 hangs up after five."""


class TestPush(msgspec.Struct, frozen=True):
    """The body of a test event: a push that nobody wrote."""

    message_id: int
    uid: str
    title: str
    body: str


class Intake:
    """The way into the inbox, and to those that events are passed on to. Thread-safe.

    notify_after: milliseconds after which `msg.notify` is held against `msg.offline`; None = the inbox takes none.
    bounds: above which nothing more is taken; None = nothing is bounded.
    """

    def __init__(
        self,
        writer: GroupCommit,
        poke: Callable[[], None],
        notify_after: int | None = None,
        targets: Sequence[Target] = (),
        bounds: Bounds | None = None,
    ) -> None:
        self._writer = writer
        self._poke = poke
        self._notify_after = notify_after
        self._targets = targets
        self._bounds = bounds
        self._large = threading.Lock()

    def wants(self, kind: str) -> bool:
        """Whether anything is made of events of this name; others need not even be read."""
        return kind in events.KINDS or any(target.wants(kind) for target in self._targets)

    def accept(self, kind: str, body: bytes) -> int:
        """Return the number of elements once the event is durable.

        Raises events.BadEvent where the body is not what the event calls for, store.writer.NotStored where it could
        not be kept. Events that are unknown here are kept for relay targets only, whatever their bodies.
        """
        measure = self._measure(kind, body)
        now = now_ms()
        arrival = self._arrival(kind, body, measure, now)
        once = kind != events.STATUS
        copies = [Copy(target.name, kind, body, now, once) for target in self._targets if target.wants(kind)]
        if arrival or copies:
            self._check_room(kind)
            self._writer.put(arrival, PATIENCE, copies)
        if copies or (arrival and kind != events.NOTIFY):
            self._poke()
        return measure.weight

    def _measure(self, kind: str, body: bytes) -> events.Measure:
        if kind not in events.KINDS:
            return events.Measure(0)
        # A hostile one takes thirty times its size to look at: one at a time costs nothing, since they share a core.
        with self._large if len(body) > LARGE else nullcontext():
            try:
                return events.measure(kind, body)
            except events.BadEvent as error:
                said = str(error)
        # Not the same one: until it is answered, its frames would keep what the body became.
        raise events.BadEvent(said)

    def _arrival(self, kind: str, body: bytes, measure: events.Measure, now: int) -> Arrival | None:
        """As the inbox takes it; None where it does not."""
        match kind:
            case events.OFFLINE:
                return Arrival(kind, body, now, lane_of(measure), measure.weight, True, measure.channel)
            case events.STATUS:
                # A user may really go online twice under the same connection id: a server that restarts counts anew.
                return Arrival(kind, body, now, STATUS_LANE, measure.weight, once=False)
            case events.NOTIFY if self._notify_after is not None:
                later = now + self._notify_after
                return Arrival(kind, body, now, NOTIFY_LANE, measure.weight, True, not_before=later)
        return None

    def test(self, uid: str, title: str, body: str) -> int:
        """Have a test push sent to each device of a user; the message id to look its outcomes up by."""
        push = TestPush(time.time_ns(), uid, title, body)
        self._check_room(TEST)
        self._writer.put(Arrival(TEST, msgspec.json.encode(push), now_ms(), NOW_LANE, 1, once=True), PATIENCE)
        self._poke()
        return push.message_id

    def _check_room(self, kind: str) -> None:
        """Raises NotStored where there is none.

        Statuses are taken however long the backlog is: see docs/decisions/bounds.md.
        """
        if self._bounds is None:
            return
        self._bounds.look()
        fault = self._bounds.disk or (self._bounds.backlog if kind != events.STATUS else None)
        if fault:
            raise NotStored(fault.message)


def lane_of(measure: events.Measure) -> str:
    """The lane of a message; one for a great many people must not stand before others, whomever it calls."""
    if measure.weight > BULK_FROM:
        return BULK_LANE
    return NOW_LANE if measure.urgent else NORMAL_LANE

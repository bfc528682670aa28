"""The order of pushes to one device in one conversation: one at a time, the next when it is settled. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from app.dispatch.work import Job, Order
from app.model import Lane

HELD = 256
"""Pushes of one order in memory behind the one whose turn it is; the rest of a flood waits in the database."""
GAP = 50
"""Milliseconds between pushes of an order that come back from the database: a flood comes back in a trickle."""
AGAIN = 250
"""Milliseconds after which a push that came back too early comes back again."""
KEEP_ORDER = 5_000
"""Milliseconds that a push waits at the most for an earlier one to its device and conversation that is tried again."""
ORDERED_TRIES = 3
"""Failures of a push after which later ones go ahead all the same: one that never succeeds holds nothing up."""
REMEMBERED = 10_000
"""Orders of which it is known that some of it waits in the database."""
FORGET_EVERY = 1_000
"""Milliseconds between two looks for what need not be remembered any more."""


class Place(Enum):
    """Where a push belongs.

    FIRST: nothing is ahead of it. BEHIND: kept here until its turn comes. STORED: in the database, since earlier ones
    wait there, or too many here.
    """

    FIRST = auto()
    BEHIND = auto()
    STORED = auto()


@dataclass(slots=True)
class _Stored:
    """What of an order waits in the database. Pushes are told apart, and which comes first, by the id of their event.

    last: the newest: what is newer goes behind it. back: one that went back although newer ones wait there already, or
    0: they wait as long. due, back_due: until when these two wait (UNIX milliseconds).
    Each counts until it comes up itself. It may never do so: `last` holds up only the next one, which takes its place,
    and `back` is not waited for longer than KEEP_ORDER.
    """

    last: int
    due: int
    back: int = 0
    back_due: int = 0


class Orders:
    """behind: how many are kept behind others, by lane."""

    def __init__(self) -> None:
        self.behind = dict.fromkeys(Lane, 0)
        self._begun: dict[Order, deque[Job] | None] = {}
        self._stored: dict[Order, _Stored] = {}
        self._forgot_at = 0

    def enter(self, job: Job, now: int) -> Place:
        """Where a job belongs that the sender has room for. One that is STORED is not kept: see `store`."""
        order = job.order = _order(job)
        if self._stored and (stored := self._stored.get(order)) and self._is_after(job, stored, now):
            return Place.STORED
        if order not in self._begun:
            self._begun[order] = None
            return Place.FIRST
        behind = self._begun[order]
        if behind is None:
            behind = self._begun[order] = deque()
        if len(behind) >= HELD:
            return Place.STORED
        behind.append(job)
        self.behind[job.lane] += 1
        return Place.BEHIND

    def _is_after(self, job: Job, stored: _Stored, now: int) -> bool:
        event_id = job.parsed.event_id
        if stored.back and (event_id == stored.back or now > stored.back_due + KEEP_ORDER):
            stored.back = stored.back_due = 0
        if 0 < stored.back < event_id:
            return True
        if event_id == stored.last:
            del self._stored[job.order]
        return event_id > stored.last

    def later(self, job: Job, now: int) -> int:
        """When a job that is STORED comes up: before what is kept here has run out, but not again and again."""
        behind = len(self._begun.get(job.order) or ())
        return now + max(AGAIN if behind or job.row_id else 0, behind * GAP // 2)

    def next(self, job: Job) -> Job | None:
        """A job is settled: the one behind it, whose turn it is now."""
        behind = self._begun.pop(job.order)
        if not behind:
            return None
        self._begun[job.order] = behind
        self.behind[job.lane] -= 1
        return behind.popleft()

    def end(self, job: Job) -> Iterable[Job]:
        """A job leaves: those behind it, which leave too."""
        behind = self._begun.pop(job.order) or ()
        self.behind[job.lane] -= len(behind)
        return behind

    def keeps(self, job: Job, at: int, now: int) -> bool:
        """Whether others are kept behind a job that is tried again at `at`."""
        return at <= now + KEEP_ORDER and job.attempts <= ORDERED_TRIES

    def store(self, job: Job, at: int, now: int) -> int:
        """Have a job wait in the database; until when: `at`, or later if it comes after others that wait there."""
        order, event_id = _order(job), job.parsed.event_id
        stored = self._stored.get(order)
        if stored is None:
            if self._can_remember(now):
                self._stored[order] = _Stored(event_id, at)
        elif event_id > stored.last:
            at = max(at, stored.due + GAP, stored.back_due)
            stored.last, stored.due = event_id, at
        elif 0 < stored.back < event_id:
            at = max(at, stored.back_due)
        else:
            stored.back, stored.back_due = event_id, at
        return at

    def _can_remember(self, now: int) -> bool:
        """Whether there is a place, if need be that of one whose time has passed."""
        if len(self._stored) >= REMEMBERED and now >= self._forgot_at + FORGET_EVERY:
            self._forgot_at = now
            long_ago = now - KEEP_ORDER
            self._stored = {o: one for o, one in self._stored.items() if max(one.due, one.back_due) >= long_ago}
        return len(self._stored) < REMEMBERED


def _order(job: Job) -> Order:
    device = job.device
    return device.uid, device.device_id, job.parsed.channel, job.lane

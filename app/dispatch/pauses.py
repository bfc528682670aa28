"""When a provider rests, and how it comes back: a pause, one push that tries, and a ramp. Reads no clock."""

from __future__ import annotations

import structlog

from app import settle
from app.dispatch.work import Job
from app.settle import Pause
from providers.kit import base

log = structlog.get_logger()


class Pauses:
    """Those of one provider. Times are UNIX milliseconds where nothing else is said.

    ramp: milliseconds that the way back to full speed takes at the most. current: the pause that it is in. since: when
    that began. probing: a push tries whether it is over. in_a_row: pauses without a good answer between.
    """

    def __init__(self, provider: str, ramp: int) -> None:
        self.current: Pause | None = None
        self.since = 0
        self.probing = False
        self.in_a_row = 0
        self._provider = provider
        self._ramp_at_most = ramp
        self._ramp: tuple[int, int] | None = None
        self._failing: set[tuple[str, str]] = set()
        self._failed_at = 0.0

    @property
    def ramping(self) -> bool:
        return self._ramp is not None

    def limit(self, capacity: int, now: int) -> int:
        """Pushes at once: one for a probe, then more and more until the ramp after the pause is over."""
        if self.probing:
            return 1
        if self._ramp is None:
            return capacity
        begun, length = self._ramp
        if now >= begun + length:
            self._ramp = None
            return capacity
        return max(1, capacity * (now - begun) // length)

    def fails(self, job: Job, outcome: base.Outcome, started: float, ended: float) -> bool:
        """Whether this failure is the provider's as a whole, and not this push's alone; from and to: monotonic."""
        if not isinstance(outcome, base.Retry):
            if self._failing:
                self._failing.clear()
            return False
        if outcome.device:
            return self.probing  # a fault of ours: a vendor that says so is well, and the pause is over by now
        if started >= self._failed_at:
            # What was under way together fails together, when one connection is lost: that is one failure.
            self._failing.add((job.device.uid, job.device.device_id))
            self._failed_at = ended
        return self.current is not None or len(self._failing) > settle.OUTAGE_AFTER

    def begin(self, pause: Pause, now: int) -> Pause:
        """Rest, or rest on: what was under way when it began does not make it longer, a probe that fails does."""
        before = self.current
        if before is None:
            self.since = now
        if before is None or self.probing:
            self.in_a_row += 1
        if before is None or (self.probing and pause.reason != before.reason):
            level = log.error if pause.broken else log.warning
            level("provider paused", action="pause", provider=self._provider, reason=pause.reason)
        if before is None or self.probing or pause.until > before.until:
            self.current = before = pause
        self.probing = False
        return before

    def end(self, now: int) -> None:
        """A probe had a good answer."""
        rested = now - self.since
        log.info("provider works again", action="resume", provider=self._provider, seconds=round(rested / 1000, 1))
        self.current = None
        self.probing = False
        self.in_a_row = 0
        self._ramp = (now, max(1, min(rested, self._ramp_at_most)))

"""How much is in flight while somebody waits: what keeps this process at work, and not more. Reads no clock."""

from __future__ import annotations

PACE_EVERY = 0.25
"""Seconds between two readings."""
BUSY = 0.9
"""Share of its cores that a process uses which cannot work off any more."""
FEWER, MORE = 0.6, 1.3
LEAST = 64
"""In flight in any case: as many as are worked off while a vendor in the same building answers."""
ENOUGH = 1_000
"""Answers a second from which on less may be in flight; a vendor that gives fewer does not fill this process."""
WAITED = 5.0
"""Seconds for which a push that somebody waited for makes more of them likely."""


class Load:
    """How busy this process is. `cores`: how many it may use."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._last: tuple[float, float] | None = None

    def is_full(self, cpu: float, at: float) -> bool:
        """Whether it has had no time to spare since the last reading.

        cpu: seconds of CPU that it has used so far; at: seconds on any clock.
        """
        last, self._last = self._last, (cpu, at)
        return last is not None and cpu - last[0] >= BUSY * self._cores * (at - last[1])


class Pace:
    """That of one provider, for what can wait.

    With more in flight than this process can work off, answers come in heaps: a sixth less work for each, but a message
    that somebody waits for is behind such a heap at each of its steps.
    """

    def __init__(self) -> None:
        self._share = 1.0
        self._last = 0, 0.0
        self._rate = 0.0

    def limit(self, capacity: int) -> int:
        """Pushes at once to a provider that could take so many."""
        return min(capacity, max(LEAST, int(capacity * self._share)))

    def note(self, crowded: bool, answers: int, at: float) -> None:
        """crowded: somebody waits, and this process has no time to spare. answers: those that came so far."""
        count, since = self._last
        self._rate = (self._rate + (answers - count) / max(at - since, PACE_EVERY)) / 2
        self._last = answers, at
        slower = crowded and self._rate > ENOUGH
        self._share = max(_LEAST_SHARE, self._share * FEWER) if slower else min(1.0, self._share * MORE)


_LEAST_SHARE = 0.01
"""From which it is back at the whole within five seconds."""

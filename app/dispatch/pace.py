"""How much is in flight while somebody waits: what keeps this process at work, and not more. Reads no clock."""

from __future__ import annotations

EVERY = 0.1
"""Seconds between two readings."""
BUSY = 0.9
"""Share of its cores that a process uses which cannot work off any more."""
FEWER, MORE = 0.7, 1.1
LEAST = 64
"""In flight in any case: as many as are worked off while a vendor in the same building answers."""
WAITED = 5.0
"""Seconds for which a push that somebody waited for makes more of them likely."""


class Pace:
    """That of all senders of a dispatcher.

    With more in flight than this process can work off, answers come in heaps: a sixth less work for each, but a message
    that somebody waits for is behind such a heap at each of its steps.
    """

    def __init__(self) -> None:
        self._share = 1.0
        self._hurried = float("-inf")
        self._last: tuple[float, float] | None = None

    def limit(self, capacity: int) -> int:
        """Pushes at once to a provider that could take so many."""
        return min(capacity, max(LEAST, int(capacity * self._share)))

    def hurry(self, at: float) -> None:
        """A push that somebody waits for is about to be sent; `at` as in `note`."""
        self._hurried = at

    def note(self, cpu: float, at: float, cores: int) -> None:
        """Seconds of CPU that this process has used so far, seconds on any clock, and cores that it may use.

        A process with time to spare waits for answers, and so for more in flight, if for anything.
        """
        if self._last is not None:
            used, since = cpu - self._last[0], at - self._last[1]
            slower = used >= BUSY * cores * since and at <= self._hurried + WAITED
            self._share = max(_LEAST_SHARE, self._share * FEWER) if slower else min(1.0, self._share * MORE)
        self._last = cpu, at


_LEAST_SHARE = 0.01
"""From which it is back at the whole within five seconds."""

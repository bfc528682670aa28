"""The wall clock, in the unit that everything here counts in."""

import time


def now_ms() -> int:
    """UNIX milliseconds."""
    return time.time_ns() // 1_000_000

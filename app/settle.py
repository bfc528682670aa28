"""From a provider's outcome, the attempts so far, and now: what becomes of the push. Times are UNIX milliseconds."""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from app.model import Outcome
from providers.kit import base


class Limits(Struct, frozen=True, kw_only=True):
    """`retry:` of the configuration, in milliseconds."""

    max_age: int = 86_400_000
    first_delay: int = 1_000
    max_delay: int = 600_000


class Done(Struct, frozen=True):
    """The last word."""

    outcome: Outcome
    reason: str = ""
    provider_id: str = ""


class RetryAt(Struct, frozen=True):
    """Again at `at`."""

    at: int
    reason: str


class Dead(Struct, frozen=True):
    """Given up; kept as a dead letter."""

    reason: str


class DropToken(Struct, frozen=True):
    """The device goes, unless its token was changed or registered again in the meantime.

    before: only a registration older than this dies.
    """

    reason: str
    before: int


class Pause(Struct, frozen=True):
    """The whole provider stops until `until`; this push waits as long and loses no attempt.

    broken: an operator must look; otherwise the vendor only asked for time.
    """

    until: int
    reason: str
    broken: bool


Settled = Done | RetryAt | Dead | DropToken | Pause


def backoff(attempt: int, limits: Limits, jitter: float) -> int:
    """Milliseconds before the next attempt, after `attempt` (1 = the first) failed; `jitter` is from 0 to 1."""
    doublings = min(max(attempt - 1, 0), 40)
    delay = min(limits.first_delay * 2**doublings, limits.max_delay)
    return min(int(delay * (0.75 + 0.5 * jitter)), limits.max_delay)


def decide(
    outcome: base.Outcome,
    *,
    attempts: int,
    first_at: int,
    registered_at: int,
    limits: Limits,
    now: int,
    jitter: float,
) -> Settled:
    """What becomes of a push.

    attempts: how often it was tried, this time included. first_at: when it was accepted.
    registered_at: when the device last registered its token. jitter: from 0 to 1.
    """
    match outcome:
        case base.Delivered(provider_id):
            return Done(Outcome.SENT, provider_id=provider_id)
        case base.Rejected(reason) | base.TooLarge(reason):
            return Done(Outcome.REJECTED, reason)
        case base.TokenInvalid(reason, since):
            if since is None or registered_at < since:
                return DropToken(reason, before=registered_at + 1 if since is None else since)
            return _again(f"{reason} before the registration", None, attempts, first_at, limits, now, jitter)
        case base.Retry(reason, after):
            return _again(reason, after, attempts, first_at, limits, now, jitter)
        case base.Throttled(reason, after):
            return _pause(reason, int(after * 1000), False, first_at, limits, now, jitter)
        case base.Misconfigured(reason):
            return _pause(reason, PAUSE, True, first_at, limits, now, jitter)


PAUSE = 30_000
"""How long a provider rests whose credential or settings the vendor refuses, before one push tries again."""


def _again(
    reason: str, after: float | None, attempts: int, first_at: int, limits: Limits, now: int, jitter: float
) -> Settled:
    delay = backoff(attempts, limits, jitter)
    if after is not None:
        delay = max(delay, int(after * 1000))
    if now + delay > first_at + limits.max_age:
        return Dead(reason)
    return RetryAt(now + delay, reason)


def _pause(reason: str, rest: int, broken: bool, first_at: int, limits: Limits, now: int, jitter: float) -> Settled:
    if now > first_at + limits.max_age:
        return Dead(reason)
    return Pause(now + int(rest * (1 + 0.2 * jitter)), reason, broken)


class TokenGuard:
    """Tells dead phones from a wrong setting of ours, which makes *every* token look dead.

    Over twenty suspect refusals that are more than half of the last minute's answers mean the latter
    (the threshold is our recommendation; no vendor publishes one).
    """

    WINDOW = 60_000
    LEAST = 20

    def __init__(self) -> None:
        self._answers: deque[tuple[int, int, int]] = deque()  # (second, answers, suspect refusals)
        self._total = 0
        self._suspect = 0

    def note(self, now: int, suspect: bool) -> bool:
        """Count one answer; True where this refusal must not be believed."""
        second = now // 1000
        if self._answers and self._answers[-1][0] == second:
            _, answers, refusals = self._answers.pop()
        else:
            answers, refusals = 0, 0
        self._answers.append((second, answers + 1, refusals + suspect))
        self._total += 1
        self._suspect += suspect
        while self._answers[0][0] < second - self.WINDOW // 1000:
            _, answers, refusals = self._answers.popleft()
            self._total -= answers
            self._suspect -= refusals
        return suspect and self._suspect > self.LEAST and self._suspect * 2 > self._total

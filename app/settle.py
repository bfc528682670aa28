"""From a provider's outcome, the attempts so far, and now: what becomes of the push. Times are UNIX milliseconds."""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from itertools import takewhile

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


class Wait(Struct, frozen=True):
    """Not before `until`, for a reason that is not its own: it loses no attempt."""

    until: int
    reason: str


class Pause(Struct, frozen=True):
    """The whole provider stops until `until`; this push waits as long and loses no attempt.

    broken: an operator must look; otherwise the vendor only asked for time.
    """

    until: int
    reason: str
    broken: bool


Settled = Done | RetryAt | Dead | DropToken | Wait
"""What becomes of one push."""


def backoff(attempt: int, limits: Limits, jitter: float) -> int:
    """Milliseconds before the next attempt, after `attempt` (1 = the first) failed; `jitter` is from 0 to 1."""
    doublings = min(max(attempt - 1, 0), 40)
    delay = min(limits.first_delay * 2**doublings, limits.max_delay)
    return min(int(delay * (0.75 + 0.5 * jitter)), limits.max_delay)


OUTAGE_AFTER = 5
"""Devices that failed one after another, without a good answer between, after which a provider fails as a whole."""
OUTAGE_REST = 1_000
"""Milliseconds that a provider rests first that gives no good answer: the connection alone may have been lost."""
PAUSE = 30_000
"""Milliseconds that a provider rests first whose credential or settings the vendor refuses."""
DOUBT_REST = 60_000
DOUBT_TRIES = 3


class Verdict(Enum):
    """What a vendor's word that a token is dead is worth, where it says the same when our own settings are wrong.

    DOUBTED: nothing shows that the settings are right. ALARM: so many say it that the settings must be wrong.
    """

    BELIEVED = "believed"
    DOUBTED = "doubted"
    ALARM = "alarm"


def decide(
    outcome: base.Outcome,
    *,
    attempts: int,
    first_at: int,
    registered_at: int,
    limits: Limits,
    now: int,
    jitter: float,
    failing: bool = False,
    pauses: int = 0,
    verdict: Verdict = Verdict.BELIEVED,
) -> Settled | Pause:
    """What becomes of a push, or of its whole provider.

    attempts: how often it was tried, this time included. first_at: when it was accepted.
    registered_at: when the device last registered its token. jitter: from 0 to 1.
    failing: the provider gives nobody a good answer. pauses: how often in a row it rested without one since.
    """
    if isinstance(outcome, base.Delivered):
        return Done(Outcome.SENT, provider_id=outcome.provider_id)
    tried = _Tried(attempts, first_at, limits, now, jitter)
    match outcome:
        case base.Rejected(reason) | base.TooLarge(reason):
            return Done(Outcome.REJECTED, reason)
        case base.TokenInvalid(reason, since):
            return _token(reason, since, verdict, registered_at, tried)
        case base.Retry(reason, after):
            if failing:
                least = max(OUTAGE_REST, int((after or 0) * 1000))
                return _pause(reason, rest(least, pauses, limits), False, tried)
            return _again(reason, after, tried)
        case base.Throttled(reason, after):
            return _pause(reason, rest(int(after * 1000), pauses, limits), False, tried)
        case base.Misconfigured(reason):
            return _pause(reason, rest(PAUSE, pauses, limits), True, tried)


class _Tried(Struct, frozen=True):
    """What `decide` was told of a push that was not taken."""

    attempts: int
    first_at: int
    limits: Limits
    now: int
    jitter: float


def rest(least: int, pauses: int, limits: Limits) -> int:
    """Milliseconds until a resting provider is tried: longer each time, but no vendor's own time is cut short."""
    return int(max(least, min(least * 2 ** min(pauses, 40), limits.max_delay)))


def _token(reason: str, since: int | None, verdict: Verdict, registered_at: int, tried: _Tried) -> Settled:
    if since is not None and registered_at >= since:
        return _again(f"{reason} before the registration", None, tried)
    if verdict is Verdict.BELIEVED:
        return DropToken(reason, before=registered_at + 1 if since is None else since)
    doubted = f"{reason}, but nothing was taken lately: topic, environment or project?"
    if tried.attempts >= DOUBT_TRIES:
        return Dead(doubted)
    return _again(doubted, DOUBT_REST / 1000, tried)


def _again(reason: str, after: float | None, tried: _Tried) -> Settled:
    delay = backoff(tried.attempts, tried.limits, tried.jitter)
    if after is not None and after * 1000 > delay:
        # Many were told the same time: not all at once, and none before it.
        delay = int(after * 1000 * (1 + 0.2 * tried.jitter))
    if tried.now + delay > tried.first_at + tried.limits.max_age:
        return Dead(reason)
    return RetryAt(tried.now + delay, reason)


def _pause(reason: str, wait: int, broken: bool, tried: _Tried) -> Dead | Pause:
    if tried.now > tried.first_at + tried.limits.max_age:
        return Dead(reason)
    return Pause(tried.now + int(wait * (1 + 0.2 * tried.jitter)), reason, broken)


class TokenGuard:
    """Tells dead phones from a wrong setting of ours, which makes *every* token look dead.

    A refusal is believed while at least as many pushes were taken in the last hour as devices were refused. Refusals
    of over twenty devices in a minute that outnumber what was taken in it mean a wrong setting, until a push is taken
    (the thresholds are our recommendation; no vendor publishes one).
    """

    WINDOW = 60_000
    TRUST = 3_600_000
    LEAST = 20
    MOST = 100_000
    """Refused devices that are remembered; whoever has had as many pushes taken in an hour has the right settings."""
    REASONS = 20
    """Words that are remembered; a vendor has two or three for this."""
    _STEP = 10_000

    def __init__(self) -> None:
        self.alarmed = False
        self._taken: deque[tuple[int, int]] = deque()  # (start of ten seconds, pushes taken in them)
        self._total = 0
        self._refused: OrderedDict[str, int] = OrderedDict()  # by device, when last in TRUST, the oldest first
        self._lately: OrderedDict[str, int] = OrderedDict()  # the same in WINDOW
        self._reasons: dict[str, int] = {}  # when each was last given

    def take(self, now: int) -> None:
        """A push was taken."""
        self.alarmed = False
        start = now - now % self._STEP
        count = 1
        if self._taken and self._taken[-1][0] == start:
            count += self._taken.pop()[1]
        self._taken.append((start, count))
        self._total += 1
        while self._taken[0][0] < now - self.TRUST:
            self._total -= self._taken.popleft()[1]

    def reasons(self, now: int) -> list[str]:
        """What devices were refused for in WINDOW."""
        return [reason for reason, at in self._reasons.items() if at >= now - self.WINDOW]

    def refuse(self, device: str, now: int, reason: str = "") -> Verdict:
        """A device was refused for what may be our own fault."""
        self._note(device, now)
        if reason in self._reasons or len(self._reasons) < self.REASONS:
            self._reasons[reason] = now
        while self._taken and self._taken[0][0] < now - self.TRUST:
            self._total -= self._taken.popleft()[1]
        latest = takewhile(lambda bucket: bucket[0] >= now - self.WINDOW, reversed(self._taken))
        if len(self._lately) > max(self.LEAST, sum(count for _, count in latest)):
            self.alarmed = True
        if self.alarmed:
            return Verdict.ALARM
        return Verdict.BELIEVED if self._total >= len(self._refused) else Verdict.DOUBTED

    def _note(self, device: str, now: int) -> None:
        for refused, since in ((self._refused, now - self.TRUST), (self._lately, now - self.WINDOW)):
            refused[device] = now
            refused.move_to_end(device)
            while len(refused) > self.MOST or next(iter(refused.values())) < since:
                refused.popitem(last=False)

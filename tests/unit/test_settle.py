from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model import Outcome
from app.settle import (
    OUTAGE_REST,
    PAUSE,
    Dead,
    Done,
    DropToken,
    Limits,
    Pause,
    RetryAt,
    Settled,
    TokenGuard,
    Verdict,
    backoff,
    decide,
    rest,
)
from providers.kit import base

NOW = 1_785_398_400_000
LIMITS = Limits()
MIDDLE = 0.5
"""The jitter that changes nothing."""


def settled(outcome: base.Outcome, **changes: Any) -> Settled:
    given: dict[str, Any] = {
        "attempts": 1,
        "first_at": NOW,
        "registered_at": NOW - 1_000,
        "limits": LIMITS,
        "now": NOW,
        "jitter": MIDDLE,
    }
    return decide(outcome, **{**given, **changes})


@pytest.mark.parametrize(
    ("attempt", "delay"),
    [(0, 1_000), (1, 1_000), (2, 2_000), (3, 4_000), (10, 512_000), (11, 600_000), (41, 600_000), (10**9, 600_000)],
)
def test_the_backoff_doubles_up_to_its_ceiling(attempt: int, delay: int) -> None:
    assert backoff(attempt, LIMITS, MIDDLE) == delay


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_jitter_is_a_quarter_either_way_below_the_ceiling(attempt: int, jitter: float) -> None:
    middle = backoff(attempt, LIMITS, MIDDLE)
    assert middle * 0.75 - 1 <= backoff(attempt, LIMITS, jitter) <= min(middle * 1.25, LIMITS.max_delay)


def test_the_first_delay_never_exceeds_the_ceiling() -> None:
    assert backoff(1, Limits(first_delay=5_000, max_delay=2_000), MIDDLE) == 2_000


@pytest.mark.parametrize(
    ("outcome", "result"),
    [
        (base.Delivered("p1"), Done(Outcome.SENT, provider_id="p1")),
        (base.Rejected("BadTopic"), Done(Outcome.REJECTED, "BadTopic")),
        (base.TooLarge("PayloadTooLarge"), Done(Outcome.REJECTED, "PayloadTooLarge")),
        (base.Retry("503"), RetryAt(NOW + 1_000, "503")),
        (base.Retry("503", after=30.0), RetryAt(NOW + 33_000, "503")),
        (base.Retry("503", after=0.0), RetryAt(NOW + 1_000, "503")),
        (base.Retry("503", after=0.5), RetryAt(NOW + 1_000, "503")),
        (base.TokenInvalid("Unregistered"), DropToken("Unregistered", before=NOW - 999)),
        (base.TokenInvalid("Unregistered", since=NOW), DropToken("Unregistered", before=NOW)),
    ],
)
def test_what_becomes_of_a_push(outcome: base.Outcome, result: Settled) -> None:
    assert settled(outcome) == result


def test_retry_after_beyond_the_ceiling_is_kept() -> None:
    assert settled(base.Retry("503", after=3_600.0), attempts=30) == RetryAt(NOW + 3_960_000, "503")


@pytest.mark.parametrize("since", [NOW - 1_001, NOW - 1_000, 0])
def test_a_token_registered_again_after_it_died_stays(since: int) -> None:
    assert isinstance(settled(base.TokenInvalid("Unregistered", since=since)), RetryAt)


def test_a_token_registered_again_that_stays_dead_is_given_up_in_the_end() -> None:
    outcome = settled(base.TokenInvalid("Unregistered", since=0), first_at=NOW - LIMITS.max_age)
    assert isinstance(outcome, Dead)


def test_a_push_is_given_up_when_the_next_attempt_would_be_too_late() -> None:
    last = NOW - LIMITS.max_age + 1_000
    assert settled(base.Retry("503"), first_at=last) == RetryAt(NOW + 1_000, "503")
    assert settled(base.Retry("503"), first_at=last - 1) == Dead("503")
    assert settled(base.Retry("503", after=90_000.0)) == Dead("503")


@pytest.mark.parametrize(("jitter", "extra"), [(0.0, 1.0), (1.0, 1.2)])
def test_a_throttled_provider_rests_as_long_as_it_asks_and_a_little_more(jitter: float, extra: float) -> None:
    assert settled(base.Throttled("429", 10.0), jitter=jitter) == Pause(NOW + int(10_000 * extra), "429", broken=False)


def test_a_refused_credential_pauses_the_provider_and_says_that_it_is_broken() -> None:
    assert settled(base.Misconfigured("InvalidProviderToken"), jitter=0.0) == Pause(
        NOW + PAUSE, "InvalidProviderToken", broken=True
    )


@pytest.mark.parametrize("outcome", [base.Throttled("429", 1.0), base.Misconfigured("403")])
def test_a_pause_does_not_prolong_a_push_for_ever(outcome: base.Outcome) -> None:
    assert isinstance(settled(outcome, first_at=NOW - LIMITS.max_age), Pause)
    assert isinstance(settled(outcome, first_at=NOW - LIMITS.max_age - 1), Dead)


@given(
    st.floats(0, 1),
    st.integers(0, 10**6),
    st.floats(0, 10**7),
    st.sampled_from([base.Retry, base.Throttled, base.TokenInvalid, base.Misconfigured]),
)
def test_nothing_is_tried_again_in_the_past(jitter: float, attempts: int, after: float, kind: Any) -> None:
    arguments = {base.Retry: ("r", after), base.Throttled: ("r", after), base.TokenInvalid: ("r", 0)}
    outcome = settled(kind(*arguments.get(kind, ("r",))), attempts=attempts, jitter=jitter)
    match outcome:
        case RetryAt(at):
            assert NOW < at <= NOW + LIMITS.max_age
        case Pause(until):
            assert until >= NOW
        case _:
            assert isinstance(outcome, Dead)


def test_many_that_were_told_one_time_come_back_spread_and_none_before_it() -> None:
    told = base.Retry("503", after=30.0)
    times = [settled(told, jitter=jitter) for jitter in (0.0, 1.0)]
    assert times == [RetryAt(NOW + 30_000, "503"), RetryAt(NOW + 36_000, "503")]


@pytest.mark.parametrize(("after", "least"), [(None, OUTAGE_REST), (10.0, 10_000)])
def test_a_failure_of_the_whole_provider_spends_no_attempt(after: float | None, least: int) -> None:
    outage = settled(base.Retry("503", after=after), failing=True, jitter=0.0)
    assert outage == Pause(NOW + least, "503", broken=False)


def test_each_rest_in_a_row_is_longer_up_to_the_ceiling() -> None:
    rests = [rest(1_000, n, Limits(max_delay=5_000)) for n in range(5)]
    assert rests == [1_000, 2_000, 4_000, 5_000, 5_000]
    assert rest(60_000, 3, Limits(max_delay=5_000)) == 60_000, "no vendor's own time is cut short"
    assert rest(1_000, 10**6, LIMITS) == LIMITS.max_delay


def test_a_doubted_token_is_tried_again_and_kept_in_the_end() -> None:
    refused = base.TokenInvalid("BadDeviceToken", suspect=True)
    first = settled(refused, verdict=Verdict.DOUBTED, jitter=0.0)
    assert isinstance(first, RetryAt)
    assert first.at == NOW + 60_000
    assert "environment" in first.reason
    assert isinstance(settled(refused, verdict=Verdict.DOUBTED, attempts=3), Dead)


def taking(guard: TokenGuard, count: int, now: int = NOW) -> TokenGuard:
    for _ in range(count):
        guard.take(now)
    return guard


def test_a_refusal_is_believed_while_pushes_are_taken() -> None:
    assert taking(TokenGuard(), 1).refuse("a", NOW) is Verdict.BELIEVED
    assert TokenGuard().refuse("a", NOW) is Verdict.DOUBTED
    guard = taking(TokenGuard(), 1)
    assert [guard.refuse(device, NOW) for device in "aab"] == [Verdict.BELIEVED, Verdict.BELIEVED, Verdict.DOUBTED]


def test_what_was_taken_over_an_hour_ago_shows_nothing() -> None:
    guard = taking(TokenGuard(), 1)
    assert guard.refuse("a", NOW + TokenGuard.TRUST - 20_000) is Verdict.BELIEVED
    assert guard.refuse("a", NOW + TokenGuard.TRUST + 20_000) is Verdict.DOUBTED


def test_many_devices_refused_within_a_minute_raise_an_alarm_until_a_push_is_taken() -> None:
    guard = taking(TokenGuard(), 1_000, NOW - 120_000)
    verdicts = [guard.refuse(f"device-{n}", NOW + n) for n in range(22)]
    assert verdicts == [Verdict.BELIEVED] * 20 + [Verdict.ALARM] * 2
    assert guard.refuse("device-1", NOW + 10 * TokenGuard.WINDOW) is Verdict.ALARM
    guard.take(NOW + 10 * TokenGuard.WINDOW)
    assert guard.refuse("device-1", NOW + 10 * TokenGuard.WINDOW) is Verdict.BELIEVED


def test_it_knows_what_devices_were_refused_for_lately() -> None:
    guard = TokenGuard()
    guard.refuse("a", NOW, "old")
    for number in range(30):
        guard.refuse("b", NOW + 120_000, f"word {number % 25}")
    assert guard.reasons(NOW + 120_000) == [f"word {n}" for n in range(TokenGuard.REASONS - 1)]


def test_what_it_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenGuard, "MOST", 10)
    guard = taking(TokenGuard(), 11)
    assert {guard.refuse(f"device-{n}", NOW + n) for n in range(20)} == {Verdict.BELIEVED}
    for hour in range(1, 100):
        guard.take(NOW + hour * TokenGuard.TRUST)
    assert len(guard._taken) <= 2


def test_one_device_refused_again_and_again_raises_none() -> None:
    guard = TokenGuard()
    assert {guard.refuse("device", NOW + n) for n in range(100)} == {Verdict.DOUBTED}


def test_refusals_over_a_longer_time_raise_none() -> None:
    guard = taking(TokenGuard(), 100)
    assert {guard.refuse(f"device-{n}", NOW + n * 10_000) for n in range(100)} == {Verdict.BELIEVED}

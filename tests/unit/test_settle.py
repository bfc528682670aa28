from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.model import Outcome
from app.settle import PAUSE, Dead, Done, DropToken, Limits, Pause, RetryAt, Settled, TokenGuard, backoff, decide
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
        (base.Retry("503", after=30.0), RetryAt(NOW + 30_000, "503")),
        (base.Retry("503", after=0.0), RetryAt(NOW + 1_000, "503")),
        (base.Retry("503", after=0.5), RetryAt(NOW + 1_000, "503")),
        (base.TokenInvalid("Unregistered"), DropToken("Unregistered", before=NOW - 999)),
        (base.TokenInvalid("Unregistered", since=NOW), DropToken("Unregistered", before=NOW)),
    ],
)
def test_what_becomes_of_a_push(outcome: base.Outcome, result: Settled) -> None:
    assert settled(outcome) == result


def test_retry_after_beyond_the_ceiling_is_kept() -> None:
    assert settled(base.Retry("503", after=3_600.0), attempts=30) == RetryAt(NOW + 3_600_000, "503")


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


def test_a_few_dead_tokens_are_believed() -> None:
    guard = TokenGuard()
    assert not any(guard.note(NOW, True) for _ in range(TokenGuard.LEAST))


def test_many_dead_tokens_among_few_good_answers_are_not_believed() -> None:
    guard = TokenGuard()
    assert [guard.note(NOW + n, True) for n in range(25)] == [False] * 20 + [True] * 5
    assert guard.note(NOW, False) is False


def test_dead_tokens_that_are_no_majority_are_believed() -> None:
    guard = TokenGuard()
    for n in range(200):
        assert not guard.note(NOW + n, False)
        assert not guard.note(NOW + n, True)


def test_the_guard_forgets_after_its_window() -> None:
    guard = TokenGuard()
    for _ in range(30):
        guard.note(NOW, True)
    assert guard.note(NOW + TokenGuard.WINDOW, True)
    assert not guard.note(NOW + TokenGuard.WINDOW * 2 + 1_000, True)


@given(st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), max_size=120))
def test_the_guard_counts_what_is_in_its_window(answers: list[tuple[int, bool]]) -> None:
    guard, now, seen = TokenGuard(), NOW, []
    for step, suspect in answers:
        now += step
        seen.append((now // 1000, suspect))
        window = [s for second, s in seen if second >= now // 1000 - 60]
        expected = suspect and sum(window) > 20 and sum(window) * 2 > len(window)
        assert guard.note(now, suspect) == expected

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from providers.kit.auth import FetchedToken, SignedToken
from providers.kit.base import CredentialRefused, Unreachable


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Signer:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"bearer {self.count}"


class Issuer:
    """Hands out tokens of an hour; fails with `failure` while that is set, and waits for `gate` before it answers."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.calls = 0
        self.failure: Exception | None = None
        self.life = 3600.0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> tuple[str, float]:
        self.calls += 1
        number = self.calls
        assert self.gate.wait(10)
        if self.failure is not None:
            raise self.failure
        return f"Bearer {number}", self.clock.now + self.life


def run(test: Callable[[Clock, Issuer, FetchedToken], Awaitable[None]]) -> None:
    """Run a test with an issuer and the credential that asks it."""

    async def main() -> None:
        clock = Clock()
        issuer = Issuer(clock)
        await test(clock, issuer, FetchedToken(issuer, clock))

    asyncio.run(main())


async def settled() -> None:
    """Until no renewal is under way."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others)


def ready(token: SignedToken) -> str:
    asyncio.run(token.ready())
    return token.header


def test_a_signed_token_is_kept_for_its_lifetime() -> None:
    clock, sign = Clock(), Signer()
    token = SignedToken(sign, now=clock)
    assert sign.count == 0
    assert [ready(token), ready(token)] == ["bearer 1", "bearer 1"]
    clock.now += 45 * 60 - 1
    assert ready(token) == "bearer 1"
    clock.now += 1
    assert ready(token) == "bearer 2"


def test_a_clock_that_is_set_back_makes_a_new_token() -> None:
    clock, sign = Clock(), Signer()
    token = SignedToken(sign, now=clock)
    ready(token)
    clock.now -= 60
    assert [ready(token), ready(token)] == ["bearer 2", "bearer 2"]


def test_many_refusals_of_one_token_make_one_new_token() -> None:
    clock, sign = Clock(), Signer()
    token = SignedToken(sign, now=clock)
    refused = ready(token)
    for _ in range(300):
        token.refuse(refused)
    assert token.header == "bearer 2"


def test_a_second_refusal_must_wait_twenty_minutes() -> None:
    clock, sign = Clock(), Signer()
    token = SignedToken(sign, now=clock)
    token.refuse(ready(token))
    clock.now += 20 * 60 - 1
    token.refuse(token.header)
    assert token.header == "bearer 2"
    clock.now += 1
    token.refuse(token.header)
    assert token.header == "bearer 3"


def test_nothing_is_fetched_before_it_is_needed() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        assert issuer.calls == 0
        await token.ready()
        await token.ready()
        assert (token.header, issuer.calls) == ("Bearer 1", 1)

    run(test)


def test_however_many_wait_one_fetch_runs() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.gate.clear()
        waiting = [asyncio.create_task(token.ready()) for _ in range(300)]
        await asyncio.sleep(0)
        issuer.gate.set()
        await asyncio.gather(*waiting)
        assert issuer.calls == 1

    run(test)


def test_a_waiter_that_gives_up_leaves_the_others_their_fetch() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.gate.clear()
        first, second = asyncio.create_task(token.ready()), asyncio.create_task(token.ready())
        await asyncio.sleep(0)
        first.cancel()
        issuer.gate.set()
        await second
        assert (token.header, issuer.calls) == ("Bearer 1", 1)

    run(test)


def test_a_token_is_renewed_early_while_it_is_used() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        await token.ready()
        clock.now += 3600 - 300 - 1
        await token.ready()
        assert issuer.calls == 1
        clock.now += 2
        issuer.gate.clear()
        await token.ready()
        await token.ready()
        assert token.header == "Bearer 1"
        issuer.gate.set()
        await settled()
        assert (token.header, issuer.calls) == ("Bearer 2", 2)

    run(test)


def test_a_failed_early_renewal_hurts_nobody_and_backs_off() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        await token.ready()
        clock.now += 3600 - 250
        issuer.failure = Unreachable("down")
        for wait in (5, 10, 20, 40, 60, 60):
            before = issuer.calls
            await token.ready()
            await settled()
            assert issuer.calls == before + 1
            clock.now += wait - 1
            await token.ready()
            await settled()
            assert (token.header, issuer.calls) == ("Bearer 1", before + 1)
            clock.now += 1
        issuer.failure = None
        await token.ready()
        await settled()
        assert token.header == f"Bearer {issuer.calls}"

    run(test)


def test_a_fault_of_fetching_is_a_failure_as_any_other(caplog: pytest.LogCaptureFixture) -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.failure = TypeError("secret")
        for _ in range(50):
            with pytest.raises(Unreachable, match="answered no token"):
                await token.ready()
        assert issuer.calls == 1
        clock.now += 5
        issuer.failure = None
        await token.ready()
        clock.now += 3600 - 250
        issuer.failure = TypeError("secret")
        await token.ready()
        await settled()
        assert (token.header, issuer.calls) == ("Bearer 2", 3)

    run(test)
    assert caplog.records == []


@pytest.mark.parametrize("failure", [Unreachable("down"), CredentialRefused("invalid_grant")])
def test_a_failure_is_told_to_all_without_asking_again(failure: Exception) -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.failure = failure
        for _ in range(50):
            with pytest.raises(type(failure), match=str(failure)):
                await token.ready()
        assert issuer.calls == 1
        clock.now += 5
        issuer.failure = None
        await token.ready()
        assert (token.header, issuer.calls) == ("Bearer 2", 2)

    run(test)


def test_a_failure_is_told_once_the_old_token_has_ended() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        await token.ready()
        issuer.failure = Unreachable("down")
        clock.now += 3601
        with pytest.raises(Unreachable):
            await token.ready()

    run(test)


def test_a_clock_that_is_set_back_does_not_prolong_the_wait() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.failure = Unreachable("down")
        with pytest.raises(Unreachable):
            await token.ready()
        clock.now -= 7200
        issuer.failure = None
        await token.ready()
        assert token.header == "Bearer 2"

    run(test)


def test_a_refused_token_is_fetched_anew_once_a_minute_at_most() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        await token.ready()
        for _ in range(300):
            token.refuse("Bearer 1")
        await token.ready()
        token.refuse("Bearer 1")
        await token.ready()
        assert (token.header, issuer.calls) == ("Bearer 2", 2)
        token.refuse("Bearer 2")
        await token.ready()
        assert issuer.calls == 2
        clock.now += 60
        token.refuse("Bearer 2")
        await token.ready()
        assert (token.header, issuer.calls) == ("Bearer 3", 3)

    run(test)


def test_a_token_that_has_ended_when_it_comes_is_not_fetched_per_push() -> None:
    async def test(clock: Clock, issuer: Issuer, token: FetchedToken) -> None:
        issuer.life = -10
        for _ in range(50):
            await token.ready()
        assert issuer.calls == 1

    run(test)

"""A fault in one message, one provider or one write costs itself and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.dispatch import incoming, steps
from app.dispatch.lane import LOCAL_CAPACITY
from app.store import deliveries, inbox
from providers.kit.base import Delivered, Notice, TokenInvalid
from tests.dispatch.conftest import Bridge, Stub


class Broken(Stub):
    def prepare(self, notice: Notice, budget: int | None = None) -> str:
        raise RuntimeError("a fault in the provider")


def test_a_provider_that_cannot_render_costs_its_own_devices(bridge: Bridge) -> None:
    bridge.register("bob", "good")
    bridge.register("cid", "bad")
    bridge.message("bob", "cid")
    good = Stub("good")
    asyncio.run(bridge.run(good, Broken("bad"), until=lambda: len(bridge.outcomes()) == 2))
    assert bridge.outcomes() == {"bob": "sent", "cid": "dead"}
    assert bridge.rows()["cid"].reason == steps.UNRENDERED
    assert bridge.rows()["cid"].event_id is not None, "a dead letter that can be tried again"


def test_a_dead_letter_of_a_provider_that_was_mended_goes_out(bridge: Bridge) -> None:
    bridge.register("cid", "bad")
    bridge.message("cid")
    asyncio.run(bridge.run(Broken("bad"), until=lambda: bridge.outcomes() == {"cid": "dead"}))
    with bridge.database.write() as connection:
        assert deliveries.retry_dead(connection, bridge.rows()["cid"].id, 1)
    asyncio.run(bridge.run(Broken("bad"), until=lambda: bridge.outcomes() == {"cid": "dead"}))
    with bridge.database.write() as connection:
        deliveries.retry_dead(connection, bridge.rows()["cid"].id, bridge.rows()["cid"].at)
    asyncio.run(bridge.run(Stub("bad"), until=lambda: bridge.outcomes() == {"cid": "sent"}))


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The first message cannot be parsed any more, until called."""
    parse = incoming.parse
    broken = True

    def stricter(event: Any) -> Any:
        if broken and event.id == 1:
            raise RuntimeError("a stricter reading")
        return parse(event)

    def mend() -> None:
        nonlocal broken
        broken = False

    monkeypatch.setattr(incoming, "parse", stricter)
    return mend


def test_an_event_that_cannot_be_read_is_set_aside_and_taken_up_at_the_next_start(
    bridge: Bridge, unreadable: Callable[[], None]
) -> None:
    bridge.register("bob", "good")
    bridge.register("cid", "good")
    bridge.message("bob")
    bridge.message("cid")
    asyncio.run(bridge.run(Stub("good"), until=lambda: "cid" in bridge.outcomes()))
    assert bridge.outcomes() == {"cid": "sent"}
    with bridge.database.read() as connection:
        assert inbox.depth(connection)["failed"][0] == 1
    unreadable()
    asyncio.run(bridge.run(Stub("good"), until=lambda: "bob" in bridge.outcomes()))
    assert bridge.outcomes() == {"bob": "sent", "cid": "sent"}


def test_a_message_that_cannot_be_planned_is_planned_again_beside_the_others(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_new = steps.plan_new
    failures = 0

    def failing(batch: Any, *more: Any) -> Any:
        nonlocal failures
        if failures < 4 and any(progress.parsed.message.message_id == 1 for progress, _ in batch):
            failures += 1
            raise RuntimeError("a fault of ours")
        return plan_new(batch, *more)

    monkeypatch.setattr(steps, "plan_new", failing)
    bridge.register("bob", "good")
    bridge.register("cid", "good")
    bridge.message("bob")
    bridge.message("cid")
    asyncio.run(bridge.run(Stub("good"), until=lambda: len(bridge.outcomes()) == 2))
    assert failures == 4
    assert bridge.outcomes() == {"bob": "sent", "cid": "sent"}


def test_a_held_user_whose_provider_is_gone(bridge: Bridge) -> None:
    bridge.register("bob", "gone")
    bridge.register("cid", "good")
    bridge.statuses("bob-0-1-1-1-1", "cid-0-1-2-1-1")
    bridge.message("bob", "cid")
    good = Stub("good")
    asyncio.run(bridge.run(good, Stub("gone"), until=lambda: len(bridge.outcomes()) == 2))
    bridge.statuses("bob-0-0-1-0-0", "cid-0-0-2-0-0")
    asyncio.run(bridge.run(good, until=lambda: "held" not in bridge.outcomes().values()))
    assert bridge.outcomes() == {"bob": "rejected", "cid": "sent"}
    assert bridge.rows()["bob"].reason == "provider_unknown"


def test_runners_that_end_together_leave_no_job_behind(bridge: Bridge) -> None:
    """All pushes of a lane end in one turn of the loop, and more come in the next."""
    uids = [f"u{n}" for n in range(LOCAL_CAPACITY)]
    for uid in [*uids, "late"]:
        bridge.register(uid, "good")

    async def scenario() -> None:
        gate = asyncio.Event()
        dispatcher = bridge.new(Stub("good", lambda _: _after(gate)))
        running = asyncio.create_task(dispatcher.run())
        lane = dispatcher._shared.lanes["good"]
        bridge.message(*uids)
        await bridge.wait(running, lambda: lane.inflight == LOCAL_CAPACITY)
        jobs: list[Any] = []
        settled = lane._on_settled

        def last_one_brings_more(job: Any, decision: Any) -> None:
            settled(job, decision)
            jobs.append(job)
            if len(jobs) == LOCAL_CAPACITY:
                # Called when every runner but this one has ended: the done callbacks are yet to come.
                asyncio.get_running_loop().call_soon(lane.submit, [jobs[0]], 1)

        lane._on_settled = last_one_brings_more
        gate.set()
        await bridge.wait(running, lambda: len(jobs) == LOCAL_CAPACITY + 1)
        assert (lane.queued, lane.inflight) == (0, 0)
        dispatcher.stop()
        await running

    asyncio.run(scenario())


async def _after(gate: asyncio.Event) -> Delivered:
    await gate.wait()
    return Delivered("id")


@pytest.mark.parametrize("stopped", [True, False])
def test_what_was_sent_is_written_by_a_dispatcher_that_ends(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """It is told to stop while its outcomes wait to be written, or fails in writing them once."""
    settle = steps.settle
    failures = 0

    def failing(*arguments: Any) -> int:
        nonlocal failures
        if not stopped and not failures:
            failures += 1
            raise RuntimeError("database is locked")
        return settle(*arguments)

    monkeypatch.setattr(steps, "settle", failing)
    uids = [f"u{n}" for n in range(50)]
    for uid in uids:
        bridge.register(uid, "good")
    bridge.message(*uids)

    async def scenario() -> None:
        good = Stub("good")
        dispatcher = bridge.new(good)
        running = asyncio.create_task(dispatcher.run())
        await bridge.wait(running, lambda: len(good.sent) == 50)
        if stopped:
            dispatcher.stop()
            await running
        else:
            with pytest.raises(RuntimeError, match="database is locked"):
                await running

    asyncio.run(scenario())
    assert set(bridge.outcomes().values()) == {"sent"}
    assert len(bridge.outcomes()) == 50


def test_a_repeat_that_comes_before_the_outcome_is_written_is_sent_once(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = steps.settle
    good = Stub("good")
    repeats: list[int] = []

    def slow(db: Any, batch: Any, *more: Any) -> int:
        if batch.new and not repeats:
            # The same message in other words: another webhook for the same recipient.
            bridge._next -= 1
            repeats.append(bridge.message("bob", "bob"))
        return settle(db, batch, *more)

    monkeypatch.setattr(steps, "settle", slow)
    bridge.register("bob", "good")
    bridge.register("cid", "good")
    bridge.message("bob")

    def done() -> bool:
        if len(repeats) == 1:
            repeats.append(bridge.message("cid"))
        with bridge.database.read() as connection:
            return "cid" in bridge.outcomes() and not inbox.depth(connection)

    asyncio.run(bridge.run(good, until=done))
    assert sorted(good.sent) == ["good-bob", "good-cid"]


def test_refusals_that_are_doubted_drop_nothing_at_later_probes(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every token is refused, as with a wrong topic: twenty devices may go, and no more at any probe."""
    monkeypatch.setattr("app.settle.PAUSE", 30)
    monkeypatch.setattr("app.settle.TokenGuard.WINDOW", 0)
    monkeypatch.setattr("app.settle.TokenGuard.LEAST", 5)
    uids = [f"u{n}" for n in range(40)]
    for uid in uids:
        bridge.register(uid, "wrong")
    bridge.message(*uids)
    wrong = Stub("wrong", lambda _: TokenInvalid("BadDeviceToken", suspect=True))
    asyncio.run(bridge.run(wrong, until=lambda: len(wrong.sent) > 60))
    assert bridge.devices() >= 40 - 12


def test_a_device_registered_again_while_its_push_is_under_way_stays(bridge: Bridge) -> None:
    bridge.register("bob", "good", at=1_000)

    def refused(_: str) -> TokenInvalid:
        bridge.register("bob", "good", at=2_000)
        return TokenInvalid("UNREGISTERED")

    bridge.message("bob")
    asyncio.run(bridge.run(Stub("good", refused), until=lambda: "bob" in bridge.outcomes()))
    assert bridge.outcomes() == {"bob": "invalid_token"}
    assert bridge.devices() == 1

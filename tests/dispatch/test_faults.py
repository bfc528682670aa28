"""A fault in one message, one provider or one write costs itself and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.dispatch import incoming, steps
from app.dispatch.sender import LOCAL_CAPACITY
from app.store import deliveries, inbox
from providers.kit.base import Delivered, Notice, TokenInvalid
from providers.kit.base import Outcome as Answer
from tests.dispatch.conftest import Bridge, Gated, Stub


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
    assert bridge.outcomes() == {"cid": "sent", "": "dead"}, "a letter stands in for whoever it was for"
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
    asyncio.run(bridge.run(good, until=lambda: not {"held", "queued"}.intersection(bridge.outcomes().values())))
    assert bridge.outcomes() == {"bob": "rejected", "cid": "sent"}
    assert bridge.rows()["bob"].reason == "provider_unknown"


def test_runners_that_end_together_leave_no_job_behind(bridge: Bridge) -> None:
    """All pushes of a lane end in one turn of the loop, and one more comes at the end of that turn."""
    uids = [f"u{n}" for n in range(LOCAL_CAPACITY)]
    for uid in uids:
        bridge.register(uid, "good")

    async def scenario() -> None:
        good = Gated("good")
        async with bridge.running(good) as wait:
            sender = bridge.dispatcher._shared.senders["good"]
            jobs: list[Any] = []
            sender._on_settled = lambda job, _: jobs.append(job)
            bridge.message(*uids)
            await wait(lambda: sender.inflight == LOCAL_CAPACITY)

            async def one_more() -> None:
                await good.gate.wait()
                assert len(jobs) == LOCAL_CAPACITY
                sender.submit(jobs[:1], 1)

            last = asyncio.create_task(one_more())
            await asyncio.sleep(0)
            good.gate.set()
            await last
            await wait(lambda: len(jobs) == LOCAL_CAPACITY + 1)

    asyncio.run(scenario())


def test_a_stop_waits_for_what_is_queued_to_be_written(bridge: Bridge) -> None:
    """Outcomes wait behind another write when the dispatcher is told to stop."""
    bridge.register("bob", "good")

    async def scenario() -> None:
        good, other_write = Gated("good"), threading.Event()
        async with bridge.running(good) as wait:
            sender, settler = bridge.dispatcher._shared.senders["good"], bridge.dispatcher._settler
            bridge.message("bob")
            await wait(lambda: sender.inflight == 1)
            bridge.dispatcher._shared._writes.submit(other_write.wait, 20)
            good.gate.set()
            await wait(lambda: sender.inflight == 0 and not settler._batch)
            bridge.dispatcher.stop()
            await wait(lambda: sender._stopping)
            for _ in range(20):
                await asyncio.sleep(0)
            other_write.set()

    asyncio.run(scenario())
    assert bridge.outcomes() == {"bob": "sent"}


def test_a_repeat_that_comes_before_the_outcome_is_written_is_sent_once(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.dispatch.settler.GATHER", 0.3)
    bridge.register("bob", "good")
    first = bridge.message("bob")

    def answer(_: str) -> Delivered:
        if len(good.sent) == 1:
            # The same message in other words: another webhook for the same recipient.
            bridge._next -= 1
            assert bridge.message("bob", "bob") == first
            bridge.dispatcher._shared.wake["normal"].set()
        return Delivered("id")

    def done() -> bool:
        with bridge.database.read() as connection:
            return bool(good.sent) and not inbox.depth(connection)

    good = Stub("good", answer)
    asyncio.run(bridge.run(good, until=done))
    assert good.sent == ["good-bob"]


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

    answers = iter([TokenInvalid("UNREGISTERED"), Delivered("id")])

    def refused(_: str) -> Answer:
        bridge.register("bob", "good", at=2_000)
        return next(answers)

    bridge.message("bob")
    asyncio.run(bridge.run(Stub("good", refused), until=lambda: bridge.outcomes() == {"bob": "sent"}))
    assert bridge.devices() == 1

"""One sender by itself: what it sends in which order, and how it pauses."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from app.dispatch import sender as senders
from app.dispatch.orders import GAP, HELD, ORDERED_TRIES
from app.dispatch.sender import BUSY, SMALLER_BUDGET, Sender
from app.dispatch.work import Job, Parsed
from app.model import Content, Device, Lane, Message, Outcome, Recipients
from app.settle import OUTAGE_AFTER, Done, DropToken, Limits, Pause, RetryAt, Settled, Wait
from providers.kit.base import (
    Delivered,
    Misconfigured,
    Notice,
    Request,
    Retry,
    Target,
    Throttled,
    TokenInvalid,
    TooLarge,
)
from tests.dispatch.conftest import Gated, Stub

EVENTS = count(1)
NOTICE = Notice(message_id="7", title="", body="hello", thread="2:g", data={})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(senders, "now_ms", clock)
    return clock


def job(provider: Stub, uid: str, lane: Lane = Lane.NOW, channel: int = 0, **more: Any) -> Job:
    parsed = Parsed(
        event_id=next(EVENTS),
        received_at=1_000_000,
        source="msg.offline",
        message=Message(message_id=7),
        content=Content(),
        recipients=Recipients((uid,)),
        channel=channel,
    )
    device = Device(uid, "phone", provider.name, f"token-{uid}", 1, 1)
    return Job(parsed, device, NOTICE, provider.prepare(NOTICE), None, first_at=1_000_000, lane=lane, **more)


def sent_by(provider: Stub, work: Callable[[Sender, list[Settled]], Any]) -> list[Settled]:
    """What a sender decided while `work` was done with it."""
    settled: list[Settled] = []

    async def scenario() -> None:
        sender = Sender(provider, Limits(), lambda _, decision: settled.append(decision), lambda: None)
        await work(sender, settled)
        await sender.stop(5)

    asyncio.run(scenario())
    return settled


async def idle(sender: Sender) -> None:
    """Wait for everything that the lane was given."""
    while sender._tasks:
        await asyncio.wait_for(asyncio.wait(sender._tasks), 10)


def test_a_pause_is_renewed_by_a_probe_that_fails_and_ended_by_one_that_does_not(clock: Clock) -> None:
    answers = iter([Misconfigured("key"), Misconfigured("key"), Delivered("id")])
    provider = Stub("p", lambda _: next(answers))

    async def work(sender: Sender, settled: list[Settled]) -> None:
        room = sender.room(Lane.NOW, clock.now)
        push = job(provider, "bob")
        for _ in range(2):
            sender.submit([push], clock.now)
            await idle(sender)
            assert isinstance(settled[-1], Wait)
            assert sender.pause is not None
            assert sender.room(Lane.NOW, clock.now) == 0
            clock.now = sender.pause.until
            assert sender.room(Lane.NOW, clock.now) == 1, "one push tries whether the pause is over"
        sender.submit([push], clock.now)
        await idle(sender)
        assert sender.pause is None
        assert not sender._pauses.probing
        assert sender.room(Lane.NOW, clock.now) == room

    assert sent_by(provider, work)[-1] == Done(Outcome.SENT, provider_id="id")


def test_a_push_too_large_is_made_smaller_once() -> None:
    budgets: list[int | None] = []

    class Choosy(Stub):
        def prepare(self, notice: Notice, budget: int | None = None) -> str:
            budgets.append(budget)
            return super().prepare(notice, budget)

    answers = iter([TooLarge("413"), Delivered("id")])
    provider = Choosy("p", lambda _: next(answers))

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, "bob")], 1)
        await idle(sender)

    assert sent_by(provider, work) == [Done(Outcome.SENT, provider_id="id")]
    assert budgets == [None, SMALLER_BUDGET]


def test_a_fault_in_one_push_ends_neither_it_nor_the_sender(clock: Clock) -> None:
    class Faulty(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            if target.token == "token-bob":
                raise RuntimeError("a fault in the provider")
            return super().request(prepared, target)

    provider = Faulty("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, "bob"), *(job(provider, f"u{n}") for n in range(200))], 1)
        await idle(sender)

    settled = sent_by(provider, work)
    assert [type(decision) for decision in settled].count(RetryAt) == 1
    assert len(provider.sent) == 200


def test_every_device_of_a_message_has_an_id_of_its_own() -> None:
    ids: list[str] = []

    class Noting(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            ids.append(target.push_id)
            return super().request(prepared, target)

    provider = Noting("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, "bob"), job(provider, "cid"), job(provider, "bob")], 1)
        await idle(sender)

    sent_by(provider, work)
    assert sorted(Counter(ids).values()) == [1, 2], "the same at every attempt"


def test_a_single_message_goes_before_a_large_group() -> None:
    provider = Stub("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, f"u{n}", Lane.BULK) for n in range(500)], 1)
        sender.submit([job(provider, "single")], 1)
        await idle(sender)

    sent_by(provider, work)
    assert provider.sent.index("token-single") < 8
    assert len(provider.sent) == 501


def test_a_refused_credential_is_renewed_before_anything_pauses() -> None:
    class Credential:
        renewals = 0
        header = "bearer old"

        async def ready(self) -> None:
            pass

        def refuse(self, header: str) -> None:
            refused.append(header)
            self.header = "bearer new"

    class Signed(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            assert self.credential is not None
            headers.append(self.credential.header)
            return Request("POST", "/" + target.token, {"authorization": self.credential.header}, b"")

    headers: list[str] = []
    refused: list[str] = []
    answers = iter([Misconfigured("401", renew=True), Delivered("id")])
    provider = Signed("p", lambda _: next(answers))
    provider.credential = Credential()

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, "bob")], 1)
        await idle(sender)
        assert sender.pause is None

    assert sent_by(provider, work) == [Done(Outcome.SENT, provider_id="id")]
    assert headers == ["bearer old", "bearer new"]
    assert refused == ["bearer old"]


def test_a_stop_waits_for_what_is_under_way() -> None:
    async def scenario() -> None:
        settled: list[Settled] = []
        provider = Gated("p")
        sender = Sender(provider, Limits(), lambda _, decision: settled.append(decision), lambda: None)
        sender.submit([job(provider, "bob")], 1)
        await asyncio.sleep(0)
        stopping = asyncio.create_task(sender.stop(10))
        await asyncio.sleep(0)
        provider.gate.set()
        await stopping
        assert settled == [Done(Outcome.SENT, provider_id="id")]

    asyncio.run(scenario())


def queue(sender: Sender, *jobs: Job) -> None:
    sender.submit(jobs, 1)


def test_inside_a_lane_channels_take_turns() -> None:
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.capacity = 1
        queue(sender, *(job(provider, f"flood-{n}", Lane.NORMAL, channel=1) for n in range(50)))
        queue(sender, *(job(provider, f"other-{n}", Lane.NORMAL, channel=2) for n in range(3)))
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)
    assert [provider.sent.index(f"token-other-{n}") for n in range(3)] == [1, 3, 5]
    assert [token for token in provider.sent if "flood" in token] == [f"token-flood-{n}" for n in range(50)]


@pytest.mark.parametrize("urgent", list(Lane))
def test_no_lane_waits_for_ever(urgent: Lane) -> None:
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.capacity = 1
        queue(sender, *(job(provider, f"{lane.name}-{n}", lane) for lane in Lane for n in range(100)))
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)
    assert provider.sent.index(f"token-{urgent.name}-0") < 8
    first = provider.sent[:100]
    assert sum("NOW" in token for token in first) == 75


def test_every_lane_has_room_of_its_own() -> None:
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, *(job(provider, f"u{n}", Lane.BULK) for n in range(sender.room(Lane.BULK, 1))))
        await asyncio.sleep(0)
        assert sender.room(Lane.BULK, 1) < 100
        assert sender.room(Lane.NOW, 1) >= 1_000
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)


def same_phone(provider: Stub, *words: str, **more: Any) -> list[Job]:
    """Pushes to one device in one conversation, told apart by what they show."""
    jobs = [job(provider, "bob", **more) for _ in words]
    for one, text in zip(jobs, words, strict=True):
        one.prepared = text
    return jobs


class Telling(Stub):
    """Keeps what was shown, and answers for it."""

    def __init__(self, answer: Callable[[str], Any] = lambda _: Delivered("id")) -> None:
        super().__init__("p")
        self.answer = answer
        self.shown: list[str] = []

    def request(self, prepared: str, target: Target) -> Request:
        return Request("POST", "/" + prepared, {}, b"")

    async def _send(self, request: Request) -> Any:
        self.shown.append(request.path[1:])
        self._answer = self.answer
        return await super()._send(request)


def test_a_push_overtakes_none_to_the_same_device_in_the_same_conversation() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def opened() -> Delivered:
            await gate.wait()
            return Delivered("id")

        provider = Telling(lambda text: opened() if text == "first" else Delivered("id"))
        sender = Sender(provider, Limits(), lambda *_: None, lambda: None)
        sender.submit(same_phone(provider, "first", "second", "third"), 1)
        sender.submit([*same_phone(provider, "elsewhere", channel=9), job(provider, "cid")], 1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert sorted(provider.shown) == ["elsewhere", "first", "hello"]
        assert sender.queued == 2
        gate.set()
        await idle(sender)
        assert [text for text in provider.shown if text in ("first", "second", "third")] == ["first", "second", "third"]
        assert sender.queued == 0
        await sender.stop(1)

    asyncio.run(scenario())


def test_later_pushes_wait_behind_one_that_is_tried_again(clock: Clock) -> None:
    """For a few seconds: what is tried again much later holds nothing up."""
    provider = Telling(lambda text: Retry("503") if text == "first" else Delivered("id"))
    first, second, third = same_phone(provider, "first", "second", "third")

    async def work(sender: Sender, settled: list[Settled]) -> None:
        queue(sender, first, second)
        await idle(sender)
        assert provider.shown == ["first"]
        (again, behind) = settled
        assert isinstance(again, RetryAt)
        assert behind == Wait(again.at + GAP, "after an earlier message")
        queue(sender, third)
        await idle(sender)
        assert settled[2] == Wait(again.at + 2 * GAP, "after an earlier message"), "one that comes in the meantime too"
        clock.now = again.at
        provider.answer = lambda _: Delivered("id")
        queue(sender, first)
        await idle(sender)
        queue(sender, second, third)
        await idle(sender)

    sent_by(provider, work)
    assert provider.shown == ["first", "first", "second", "third"]


def test_nothing_waits_behind_a_push_that_never_succeeds(clock: Clock) -> None:
    provider = Telling(lambda text: Retry("503", device=True) if text == "first" else Delivered("id"))
    first, second = same_phone(provider, "first", "second")
    first.attempts = ORDERED_TRIES

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, first, second)
        await idle(sender)

    sent_by(provider, work)
    assert provider.shown == ["first", "second"]


def test_nothing_waits_behind_a_push_that_is_tried_again_much_later(clock: Clock) -> None:
    provider = Telling(lambda text: Retry("429", after=60.0, device=True) if text == "first" else Delivered("id"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, *same_phone(provider, "first", "second"))
        await idle(sender)

    sent_by(provider, work)
    assert provider.shown == ["first", "second"]


def test_a_provider_that_fails_as_a_whole_is_paused_and_spends_no_more_attempts(clock: Clock) -> None:
    provider = Stub("p", lambda _: Retry("503"))

    async def work(sender: Sender, settled: list[Settled]) -> None:
        sender.capacity = 1
        jobs = [job(provider, f"u{n}") for n in range(100)]
        queue(sender, *jobs)
        await idle(sender)
        assert [type(decision) for decision in settled] == [RetryAt] * OUTAGE_AFTER + [Wait] * (100 - OUTAGE_AFTER)
        assert len(provider.sent) == OUTAGE_AFTER + 1
        assert [one.attempts for one in jobs] == [1] * OUTAGE_AFTER + [0] * (100 - OUTAGE_AFTER)
        assert sender.room(Lane.NOW, clock.now) == 0

    sent_by(provider, work)


def test_failures_between_good_answers_pause_nothing(clock: Clock) -> None:
    answers = iter(([Retry("503")] * OUTAGE_AFTER + [Delivered("id")]) * 3)
    provider = Stub("p", lambda _: next(answers))

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.capacity = 1
        queue(sender, *(job(provider, f"u{n}") for n in range(3 * (OUTAGE_AFTER + 1))))
        await idle(sender)
        assert sender.pause is None

    sent_by(provider, work)


def test_a_device_that_fails_again_and_again_pauses_nothing(clock: Clock) -> None:
    provider = Stub("p", lambda _: Retry("503"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.capacity = 1
        queue(sender, *(job(provider, "bob", channel=n) for n in range(20)))
        await idle(sender)
        assert sender.pause is None

    sent_by(provider, work)


def test_pushes_that_fail_together_are_one_failure(clock: Clock) -> None:
    async def scenario() -> None:
        lost = asyncio.Event()

        async def fail() -> Retry:
            await lost.wait()
            return Retry("connection lost")

        provider = Stub("p", lambda _: fail())
        sender = Sender(provider, Limits(), lambda *_: None, lambda: None)
        sender.submit([job(provider, f"u{n}") for n in range(sender.capacity)], 1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(provider.sent) == sender.capacity
        lost.set()
        await idle(sender)
        assert sender.pause is None
        await sender.stop(1)

    asyncio.run(scenario())


def test_what_is_about_one_device_says_nothing_of_the_provider(clock: Clock) -> None:
    provider = Stub("p", lambda _: Retry("TooManyRequests", device=True))

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, *(job(provider, f"u{n}") for n in range(100)))
        await idle(sender)
        assert sender.pause is None

    sent_by(provider, work)


def test_a_probe_that_is_refused_for_one_device_ends_a_pause(clock: Clock) -> None:
    """The vendor has answered: nobody else has to wait for that phone."""
    answers = iter([Misconfigured("key"), Retry("TooManyRequests", after=60, device=True)])
    provider = Stub("p", lambda _: next(answers))

    async def work(sender: Sender, settled: list[Settled]) -> None:
        sender.submit([job(provider, "bob")], clock.now)
        await idle(sender)
        assert sender.pause is not None
        clock.now = sender.pause.until
        sender.submit([job(provider, "ann")], clock.now)
        await idle(sender)
        assert sender.pause is None
        assert isinstance(settled[-1], RetryAt)

    sent_by(provider, work)


class Connections:
    def __init__(self) -> None:
        self.made = 0

    async def reconnect(self) -> None:
        self.made += 1

    async def close(self) -> None:
        return


@pytest.mark.parametrize("kind", [Retry, Throttled])
@pytest.mark.parametrize("asked", [False, True])
def test_a_connection_that_is_not_to_be_trusted_is_replaced(kind: Any, asked: bool) -> None:
    provider = Stub("p", lambda _: kind("no more", after=1.0, reconnect=asked))
    connections = Connections()

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender._client = connections  # type: ignore[assignment]
        queue(sender, job(provider, "bob"))
        await idle(sender)

    sent_by(provider, work)
    assert connections.made == asked


async def fail(sender: Sender, provider: Stub, clock: Clock) -> None:
    """Have a provider that answers nobody paused."""
    queue(sender, *(job(provider, f"u{n}") for n in range(OUTAGE_AFTER + 1)))
    await idle(sender)
    assert sender.pause is not None


def test_the_rests_of_a_provider_that_stays_down_grow(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dispatch.sender.random.random", lambda: 0.0)
    provider = Stub("p", lambda _: Retry("503"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        await fail(sender, provider, clock)
        rests, probe = [], job(provider, "probe")
        for _ in range(4):
            assert sender.pause is not None
            rests.append(sender.pause.until - clock.now)
            clock.now = sender.pause.until
            sender.submit([probe], clock.now)
            await idle(sender)
        assert rests == [1_000, 2_000, 4_000, 8_000]

    sent_by(provider, work)


def test_after_a_pause_sending_grows_to_full_speed(clock: Clock) -> None:
    provider = Stub("p", lambda _: Retry("503"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        await fail(sender, provider, clock)
        assert sender.pause is not None
        clock.now += 60_000
        provider._answer = lambda _: Delivered("id")
        sender.submit([job(provider, "probe")], clock.now)
        await idle(sender)
        assert sender.pause is None
        limits = []
        for _ in range(6):
            limits.append(sender._pauses.limit(sender.capacity, clock.now))
            clock.now += 2_000
        assert limits == [1, *(sender.capacity * n // 5 for n in (1, 2, 3, 4, 5))]

    sent_by(provider, work)


def test_a_short_pause_is_followed_by_a_short_ramp(clock: Clock) -> None:
    provider = Stub("p", lambda _: Retry("503"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        await fail(sender, provider, clock)
        clock.now += 2_000
        provider._answer = lambda _: Delivered("id")
        sender.submit([job(provider, "probe")], clock.now)
        await idle(sender)
        clock.now += 2_000
        assert sender._pauses.limit(sender.capacity, clock.now) == sender.capacity

    sent_by(provider, work)


def test_a_backlog_after_a_pause_is_sent_by_a_few_at_first_and_then_by_all(clock: Clock) -> None:
    provider = Gated("p")

    async def work(sender: Sender, settled: list[Settled]) -> None:
        sender._pauses.begin(Pause(clock.now, "503", False), clock.now - 60_000)
        provider.gate.set()
        sender.submit([job(provider, "probe")], clock.now)
        await idle(sender)
        provider.gate.clear()
        clock.now += 1_000
        sender.submit([job(provider, f"u{n}") for n in range(200)], clock.now)
        assert sender.inflight == sender.capacity // 10
        clock.now += 60_000
        provider.gate.set()
        await idle(sender)
        assert len(settled) == 201

    sent_by(provider, work)


def test_when_all_tokens_look_dead_none_is_given_up(clock: Clock) -> None:
    alarms: list[Any] = []
    provider = Stub("p", lambda _: TokenInvalid("BadDeviceToken", suspect=True))
    settled: list[Settled] = []

    async def scenario() -> None:
        sender = Sender(
            provider, Limits(), lambda _, one: settled.append(one), lambda: None, lambda *a: alarms.append(a)
        )
        sender.submit([job(provider, f"u{n}") for n in range(100)], clock.now)
        await idle(sender)
        assert isinstance(sender.pause, Pause)
        assert "environment" in sender.pause.reason
        assert sender.pause.broken
        await sender.stop(1)

    asyncio.run(scenario())
    assert not any(isinstance(decision, DropToken) for decision in settled)
    assert alarms == [("p", ["BadDeviceToken"], clock.now - 60_000)]


def test_a_dead_token_among_good_ones_is_given_up() -> None:
    bad = TokenInvalid("BadDeviceToken", suspect=True)
    provider = Stub("p", lambda token: bad if token == "token-dead" else Delivered("id"))

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, job(provider, "good"), job(provider, "dead"))
        await idle(sender)

    assert isinstance(sent_by(provider, work)[1], DropToken)


def test_a_flood_in_one_conversation_takes_little_room_from_others() -> None:
    async def scenario() -> None:
        provider = Gated("p")
        told: list[Settled] = []
        sender = Sender(provider, Limits(), lambda _, decision: told.append(decision), lambda: None)
        room = sender.room(Lane.NOW, 1)
        queue(sender, *(job(provider, "bob") for _ in range(2 * room)))
        await asyncio.sleep(0)
        assert sender.room(Lane.NOW, 1) == room - 1 - HELD
        assert sender.inflight == 1, "no task is started for what has to wait"
        assert len(told) == 2 * room - HELD - 1
        assert all(isinstance(decision, Wait) for decision in told)
        queue(sender, *(job(provider, f"u{n}") for n in range(10)))
        await asyncio.sleep(0)
        assert len(provider.sent) == 11
        provider.gate.set()
        await idle(sender)
        assert len(provider.sent) == HELD + 11
        await sender.stop(1)

    asyncio.run(scenario())


def test_what_waits_behind_others_fills_the_lane_too() -> None:
    """Else what a group's flood has too much of would come from the database again and again, and go back."""
    provider = Gated("p")

    async def work(sender: Sender, settled: list[Settled]) -> None:
        room = sender.room(Lane.NOW, 1)
        queue(sender, *(job(provider, f"u{n % 100}") for n in range(room + 50)))
        await asyncio.sleep(0)
        assert sender.room(Lane.NOW, 1) == 0
        assert settled == [Wait(1 + BUSY + GAP * (n // 100), "provider busy") for n in range(50)]
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)


def test_what_a_few_conversations_hold_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each goes out one push after another, however fast the provider is: everybody else would wait for that."""
    monkeypatch.setattr(senders, "STUCK", 60.0)
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        queue(sender, *(job(provider, f"u{n % 10}") for n in range(10 * HELD)))
        await asyncio.sleep(0)
        assert sender.inflight == 10
        assert sender.worth_waiting(Lane.NOW, 1), "all of it is sent in no time"
        sender._rate = 100.0
        assert not sender.worth_waiting(Lane.NOW, 1)
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)


def test_what_there_is_no_room_for_is_overtaken_by_nothing_of_its_conversation() -> None:
    provider = Gated("p")

    async def work(sender: Sender, settled: list[Settled]) -> None:
        queue(sender, *(job(provider, f"u{n}") for n in range(sender.room(Lane.NOW, 1))))
        first, second = job(provider, "bob"), job(provider, "bob")
        queue(sender, first)
        assert settled == [Wait(1 + BUSY, "provider busy")]
        provider.gate.set()
        await idle(sender)
        queue(sender, second)
        assert settled[-1] == Wait(1 + BUSY + GAP, "after an earlier message")
        first.row_id, second.row_id = 1, 2
        queue(sender, first, second)
        await idle(sender)
        assert provider.sent.count("token-bob") == 2

    sent_by(provider, work)


def test_at_a_pause_a_conversation_goes_to_the_database_in_its_order(clock: Clock) -> None:
    """And nothing of it comes up before the pause is over."""

    async def scenario() -> None:
        refused, failed = asyncio.Event(), asyncio.Event()

        async def answer(token: str) -> Any:
            if token == "token-cid":
                await refused.wait()
                return Misconfigured("403")
            await failed.wait()
            return Retry("reset")

        provider = Stub("p", answer)
        told: list[tuple[Job, Settled]] = []
        sender = Sender(provider, Limits(), lambda one, decision: told.append((one, decision)), lambda: None)
        first, second, third = mine = [job(provider, "bob") for _ in range(3)]
        other = job(provider, "cid")
        queue(sender, *mine, other)
        await asyncio.sleep(0)
        refused.set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert [one for one, _ in told] == [other], "those behind wait for the one that is under way"
        failed.set()
        await idle(sender)
        assert [one for one, _ in told] == [other, first, second, third]
        assert sender.pause is not None
        dues = [decision.until for _, decision in told if isinstance(decision, Wait)]
        assert dues == [sender.pause.until, *(sender.pause.until + n * GAP for n in range(3))]
        await sender.stop(1)

    asyncio.run(scenario())


@pytest.mark.parametrize("bad", [None, Throttled("429", after=float("inf"))])
def test_an_answer_that_cannot_be_decided_on_costs_one_push_one_attempt(clock: Clock, bad: Any) -> None:
    provider = Telling(lambda text: bad if text == "first" else Delivered("id"))
    first, second = same_phone(provider, "first", "second")
    first.attempts = ORDERED_TRIES

    async def work(sender: Sender, settled: list[Settled]) -> None:
        queue(sender, first, second)
        await idle(sender)
        assert [type(decision) for decision in settled] == [RetryAt, Done]
        assert first.attempts == ORDERED_TRIES + 1
        assert sender.queued == 0

    sent_by(provider, work)


def test_an_outcome_that_cannot_be_told_holds_nothing_up() -> None:
    async def scenario() -> None:
        told: list[Settled] = []

        def on_settled(one: Job, decision: Settled) -> None:
            if one is first:
                raise RuntimeError("a fault of ours")
            told.append(decision)

        provider = Stub("p")
        sender = Sender(provider, Limits(), on_settled, lambda: None)
        first, second = job(provider, "bob"), job(provider, "bob")
        queue(sender, first, second)
        await idle(sender)
        assert told == [Done(Outcome.SENT, provider_id="id")]
        await sender.stop(1)

    asyncio.run(scenario())


def test_only_a_push_tries_whether_a_pause_is_over(clock: Clock) -> None:
    async def scenario() -> None:
        late = asyncio.Event()

        async def answer(token: str) -> Any:
            if token == "token-bob":
                await late.wait()
            return Misconfigured("403")

        provider = Stub("p", answer)
        sender = Sender(provider, Limits(), lambda *_: None, lambda: None)
        queue(sender, job(provider, "bob"), job(provider, "cid"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert sender.pause is not None
        clock.now = sender.pause.until
        sender.submit([], clock.now)
        late.set()
        await idle(sender)
        assert sender._pauses.in_a_row == 1, "what was under way when it began is no try"
        await sender.stop(1)

    asyncio.run(scenario())

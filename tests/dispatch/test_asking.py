"""Asking WuKongIM who is online, while other things happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

import pytest

from app.plan import Policy
from tests.dispatch.conftest import Asked, Bridge, Stub, Wait
from tests.dispatch.virtual import VirtualLoop

HOLD = Policy(hold=60_000, ask_after=10)


class Question(Asked):
    """Stands for WuKongIM: answers when it may, and says what it was asked. online: None = it gives no answer."""

    def __init__(self, online: dict[str, frozenset[int]] | None) -> None:
        super().__init__(self._say)
        self.online = online
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()

    async def _say(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        self.asked.append(list(uids))
        await self.may_answer.wait()
        return None if self.online is None else {uid: self.online.get(uid, frozenset()) for uid in uids}


@asynccontextmanager
async def asked(bridge: Bridge, ask: Question, policy: Policy = HOLD) -> AsyncIterator[Wait]:
    """A dispatcher that has asked about bob, who looks online and has a message waiting."""
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-1-1-1-1")
    bridge.message("bob")
    async with bridge.running(Stub("phone"), policy=policy, ask=ask) as wait:
        await wait(lambda: bool(ask.asked))
        yield wait


def test_whoever_leaves_while_the_server_is_silent_gets_the_push_at_once(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        async with asked(bridge, ask) as wait:
            bridge.statuses("bob-0-0-1-0-0")
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})
            assert not ask.may_answer.is_set()

    asyncio.run(scenario())


def test_no_question_outlives_the_dispatcher(bridge: Bridge) -> None:
    async def scenario() -> set[asyncio.Task[None]]:
        async with asked(bridge, Question({})):
            pass
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(scenario()) == set()


def test_the_hold_ends_while_the_server_is_silent(bridge: Bridge) -> None:
    async def scenario() -> None:
        async with asked(bridge, Question({}), Policy(hold=300, ask_after=10)) as wait:
            await wait(lambda: bridge.outcomes() == {"bob": "suppressed"})

    asyncio.run(scenario())


def test_an_answer_settles_what_is_held(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        async with asked(bridge, ask) as wait:
            bridge.register("cid", "phone")
            bridge.statuses("cid-0-1-2-1-1")
            bridge.message("cid")
            await wait(lambda: len(ask.asked) == 2)
            ask.may_answer.set()
            await wait(lambda: bridge.outcomes() == {"bob": "suppressed", "cid": "sent"})
            assert ask.asked == [["bob"], ["cid"]]

    asyncio.run(scenario())


def test_an_offline_event_is_newer_than_an_answer_to_an_earlier_question(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        async with asked(bridge, ask) as wait:
            bridge.statuses("bob-0-0-1-0-0")
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})
            ask.may_answer.set()
            await wait(lambda: not bridge.dispatcher._waiting._asking)
            second = bridge.message("bob")
            await wait(lambda: bridge.rows()["bob"].message_id == second)
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})
            assert len(ask.asked) == 1

    asyncio.run(scenario())


def test_a_server_that_gave_no_answer_is_left_alone_for_a_while(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question(None)
        async with asked(bridge, ask, Policy(hold=300, ask_after=10)) as wait:
            ask.may_answer.set()
            await wait(lambda: bridge.outcomes() == {"bob": "suppressed"})
            second = bridge.message("bob")
            await wait(lambda: bridge.rows()["bob"].message_id == second)
            await wait(lambda: bridge.outcomes() == {"bob": "suppressed"})
            assert len(ask.asked) == 1

    asyncio.run(scenario())


def test_a_message_that_came_just_before_the_question_has_one_of_its_own(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """v2 still names a connection that closed up to 200 ms ago: bob left between his two messages."""

    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        async with asked(bridge, ask, Policy(hold=60_000, ask_after=400)) as wait:
            second = bridge.message("bob")
            bridge.poke()
            await wait(lambda: len(bridge.outcomes_by_message()) == 2)
            ask.may_answer.set()
            await wait(lambda: bridge.outcomes_by_message()[second - 1, "bob"] == "suppressed")
            ask.online = {}
            await wait(lambda: bridge.outcomes_by_message()[second, "bob"] == "sent")
            assert ask.asked == [["bob"], ["bob"]]

    loop = VirtualLoop()
    monkeypatch.setattr("app.clock.time", loop)
    with closing(loop):
        loop.run_until_complete(scenario())

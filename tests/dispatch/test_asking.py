"""Asking WuKongIM who is online, while other things happen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from app.plan import Policy
from tests.dispatch.conftest import Bridge, Stub

HOLD = Policy(hold=60_000, ask_after=10)


class Question:
    """Stands for WuKongIM: answers when it may, and says what it was asked. online: None = it gives no answer."""

    def __init__(self, online: dict[str, frozenset[int]] | None) -> None:
        self.online = online
        self.asked: list[list[str]] = []
        self.may_answer = asyncio.Event()

    async def __call__(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        self.asked.append(list(uids))
        await self.may_answer.wait()
        return None if self.online is None else {uid: self.online.get(uid, frozenset()) for uid in uids}


async def asked(bridge: Bridge, ask: Question, policy: Policy = HOLD) -> tuple[asyncio.Task[None], Callable[..., Any]]:
    """A dispatcher that has asked about bob, who looks online and has a message waiting."""
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-1-1-1-1")
    bridge.message("bob")
    dispatcher = bridge.new(Stub("phone"), policy=policy, ask=ask)  # type: ignore[arg-type]
    running = asyncio.create_task(dispatcher.run())

    async def until(condition: Callable[[], bool]) -> None:
        await bridge.wait(running, condition)

    await until(lambda: bool(ask.asked))
    return running, until


def test_whoever_leaves_while_the_server_is_silent_gets_the_push_at_once(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        running, until = await asked(bridge, ask)
        bridge.statuses("bob-0-0-1-0-0")
        await until(lambda: bridge.outcomes() == {"bob": "sent"})
        assert not ask.may_answer.is_set()
        bridge.dispatcher.stop()
        await running

    asyncio.run(scenario())


def test_the_hold_ends_while_the_server_is_silent(bridge: Bridge) -> None:
    async def scenario() -> None:
        running, until = await asked(bridge, Question({}), Policy(hold=300, ask_after=10))
        await until(lambda: bridge.outcomes() == {"bob": "suppressed"})
        bridge.dispatcher.stop()
        await running

    asyncio.run(scenario())


def test_an_answer_settles_what_is_held(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        running, until = await asked(bridge, ask)
        bridge.register("cid", "phone")
        bridge.statuses("cid-0-1-2-1-1")
        bridge.message("cid")
        await until(lambda: len(ask.asked) == 2)
        ask.may_answer.set()
        await until(lambda: bridge.outcomes() == {"bob": "suppressed", "cid": "sent"})
        assert ask.asked == [["bob"], ["cid"]]
        bridge.dispatcher.stop()
        await running

    asyncio.run(scenario())


def test_an_offline_event_is_newer_than_an_answer_to_an_earlier_question(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question({"bob": frozenset({0})})
        running, until = await asked(bridge, ask)
        bridge.statuses("bob-0-0-1-0-0")
        await until(lambda: bridge.outcomes() == {"bob": "sent"})
        ask.may_answer.set()
        await until(lambda: not bridge.dispatcher._waiting._asking)
        second = bridge.message("bob")
        await until(lambda: bridge.rows()["bob"].message_id == second)
        await until(lambda: bridge.outcomes() == {"bob": "sent"})
        assert len(ask.asked) == 1
        bridge.dispatcher.stop()
        await running

    asyncio.run(scenario())


def test_a_server_that_gave_no_answer_is_left_alone_for_a_while(bridge: Bridge) -> None:
    async def scenario() -> None:
        ask = Question(None)
        running, until = await asked(bridge, ask, Policy(hold=300, ask_after=10))
        ask.may_answer.set()
        await until(lambda: bridge.outcomes() == {"bob": "suppressed"})
        second = bridge.message("bob")
        await until(lambda: bridge.rows()["bob"].message_id == second)
        await until(lambda: bridge.outcomes() == {"bob": "suppressed"})
        assert len(ask.asked) == 1
        bridge.dispatcher.stop()
        await running

    asyncio.run(scenario())

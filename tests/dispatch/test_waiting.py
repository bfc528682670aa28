"""Rows that are taken up again, and the messages that they belong to."""

from __future__ import annotations

import asyncio

import pytest

from app.dispatch import waiting
from app.dispatch.settler import Settler
from app.dispatch.shared import Shared
from app.dispatch.waiting import Waiting
from app.model import Outcome
from app.settle import Limits
from app.store.rows import Delivery
from tests.dispatch.conftest import Bridge
from tests.dispatch.test_work import RULES


def queued(message_id: int, event_id: int) -> Delivery:
    return Delivery(
        message_id=message_id,
        uid="bob",
        device_id="phone",
        provider="p",
        outcome=Outcome.QUEUED,
        first_at=1,
        at=1,
        event_id=event_id,
    )


def test_what_one_loop_reads_takes_nothing_from_the_other(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PARSED", 1)
    bridge.database.reads_at_once = False  # as over a network: others go on meanwhile
    rows = [queued(bridge.message("bob"), event_id) for event_id in (1, 2, 3)]
    shared = Shared(bridge.database, {}, RULES, Limits(), "me", ["due", "held"])
    settler = Settler(shared)
    both = Waiting(shared, settler, None)

    async def scenario() -> list[list[int]]:
        await both._with_events(rows[:1])
        found = await asyncio.gather(both._with_events(rows[1:2]), both._with_events([rows[0], rows[2]]))
        return [[parsed.message.message_id for _, parsed in pairs] for pairs in found]

    assert asyncio.run(scenario()) == [[2], [1, 3]]
    assert not settler.tally
    shared.close()


def test_who_was_asked_about_is_forgotten_now_and_then(bridge: Bridge) -> None:
    """To look at all of them for every answer would take longer than the answer."""
    shared = Shared(bridge.database, {}, RULES, Limits(), "me", ["due", "held"])
    known = Waiting(shared, Settler(shared), None)
    known._questions = {"bob": 1}
    known._forget_questions(now := waiting.REMEMBERED + 2)
    assert not known._questions
    known._answered = {"bob": 1}
    known._forget_questions(now + 1)
    assert known._answered
    known._forget_questions(now + waiting.FORGOTTEN_EVERY)
    assert not known._answered
    shared.close()

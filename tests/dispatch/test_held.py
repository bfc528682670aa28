"""Held pushes and statuses that come at the same moment."""

from __future__ import annotations

import pytest

from app.clock import now_ms
from app.dispatch import settling, taking
from app.dispatch.work import Batch
from app.intake import NORMAL_LANE
from app.model import Outcome
from app.store import deliveries, presence
from app.store.rows import Delivery
from tests.dispatch.conftest import Bridge
from tests.dispatch.test_work import RULES


def held(due_at: int) -> Delivery:
    now = now_ms()
    return Delivery(
        message_id=7, uid="bob", device_id="", provider="", outcome=Outcome.HELD, first_at=now, at=now, due_at=due_at
    )


@pytest.mark.parametrize("crowd", [0, taking.STATUS_CALLS])
def test_a_held_push_is_not_decided_before_what_came_is_applied(bridge: Bridge, crowd: int) -> None:
    with bridge.database.write() as connection:
        deliveries.insert_new(connection, [held(now_ms() - 1)])
    for _ in range(crowd):
        bridge.statuses("bob-0-1-1-1-1")
    bridge.statuses("bob-0-0-1-0-0")
    while (taken := taking.take_held(bridge.database, 10, "me", 1_000, now_ms(), RULES)).more:
        assert taken.claimed == []
    with bridge.database.read() as connection:
        assert [known.online for known in presence.of_users(connection, ["bob"])["bob"].values()] == [False]
    assert [row.uid for row in taken.claimed] == ["bob"]


def test_whoever_leaves_between_the_plan_and_its_writing_is_due_at_once(bridge: Bridge) -> None:
    until = now_ms() + 60_000
    bridge.statuses("bob-0-0-1-0-0")
    taking.take(bridge.database, NORMAL_LANE, 10, 10, "me", 1_000, now_ms(), RULES)
    settling.settle(bridge.database, Batch(new=[held(until)]), "me", RULES, now_ms)
    due = bridge.rows()["bob"].due_at
    assert due is not None
    assert due < until

"""The order of pushes to one device in one conversation, by itself."""

from __future__ import annotations

from typing import Any

import pytest

from app.dispatch import orders as module
from app.dispatch.orders import AGAIN, GAP, HELD, KEEP_ORDER, Orders, Place
from app.dispatch.work import Job
from app.model import Lane
from tests.dispatch.conftest import Stub
from tests.dispatch.test_sender import job

NOW = 1_000_000
PROVIDER = Stub("p")


def pushes(count: int, uid: str = "bob", **more: Any) -> list[Job]:
    return [job(PROVIDER, uid, **more) for _ in range(count)]


def come_up(jobs: list[Job]) -> list[Job]:
    """They have rows by now, and are claimed."""
    for row_id, one in enumerate(jobs, 1):
        one.row_id = one.row_id or row_id
    return jobs


@pytest.fixture
def orders() -> Orders:
    return Orders()


def entered(orders: Orders, jobs: list[Job], now: int = NOW) -> list[Place]:
    return [orders.enter(one, now) for one in jobs]


def test_each_has_its_turn_when_the_one_before_it_is_settled(orders: Orders) -> None:
    first, second, third = pushes(3)
    assert entered(orders, [first, second, third]) == [Place.FIRST, Place.BEHIND, Place.BEHIND]
    assert orders.next(first) is second
    assert orders.next(second) is third
    assert not any(orders.behind.values())
    assert orders.next(third) is None
    assert entered(orders, pushes(1)) == [Place.FIRST], "nothing of it is left"


def test_no_other_device_conversation_or_lane_is_waited_for(orders: Orders) -> None:
    others = [*pushes(1, "cid"), *pushes(1, channel=9), *pushes(1, lane=Lane.NORMAL)]
    assert entered(orders, [*pushes(1), *others]) == [Place.FIRST] * 4


def test_of_a_flood_no_more_is_kept_than_may_be(orders: Orders) -> None:
    flood = pushes(HELD + 4)
    assert entered(orders, flood) == [Place.FIRST, *[Place.BEHIND] * HELD, *[Place.STORED] * 3]
    beyond = flood[HELD + 1 :]
    dues = [orders.store(one, orders.later(one, NOW), NOW) for one in beyond]
    assert dues == [NOW + HELD * GAP // 2 + n * GAP for n in range(3)], "in a trickle, before those here have run out"


def test_what_is_kept_is_counted_by_lane(orders: Orders) -> None:
    now, normal = pushes(3), pushes(2, lane=Lane.NORMAL)
    entered(orders, [*now, *normal])
    assert orders.behind == {Lane.NOW: 2, Lane.NORMAL: 1, Lane.BULK: 0}
    orders.next(now[0])
    orders.end(normal[0])
    assert orders.behind == {Lane.NOW: 1, Lane.NORMAL: 0, Lane.BULK: 0}


def test_what_comes_up_too_early_does_not_do_so_again_and_again(orders: Orders) -> None:
    (one,) = pushes(1)
    assert orders.later(one, NOW) == NOW, "nothing of this order is kept, so it need not wait"
    assert orders.later(come_up([one])[0], NOW) == NOW + AGAIN


def test_nothing_new_overtakes_what_waits_in_the_database(orders: Orders) -> None:
    first, second, third = pushes(3)
    assert orders.store(first, NOW + 500, NOW) == NOW + 500
    assert entered(orders, [second]) == [Place.STORED]
    assert orders.store(second, NOW, NOW) == NOW + 500 + GAP
    come_up([first, second])
    assert entered(orders, [first, third]) == [Place.FIRST, Place.STORED], "the second is still there"
    assert entered(orders, [second, third]) == [Place.BEHIND, Place.BEHIND]


def test_what_comes_up_waits_with_an_earlier_one_that_went_back(orders: Orders) -> None:
    first, second, third = jobs = pushes(3)
    for one in jobs:
        orders.store(one, NOW, NOW)
    come_up(jobs)
    assert entered(orders, [first]) == [Place.FIRST]
    orders.store(first, NOW + 800, NOW)
    assert list(orders.end(first)) == []
    assert entered(orders, [second, third]) == [Place.STORED] * 2
    assert [orders.store(one, NOW, NOW) for one in (second, third)] == [NOW + 800] * 2
    assert entered(orders, jobs, NOW + 800) == [Place.FIRST, Place.BEHIND, Place.BEHIND]


def test_one_that_never_comes_up_again_holds_up_nothing_for_long(orders: Orders) -> None:
    gone, second, third = pushes(3)
    orders.store(gone, NOW, NOW)
    assert entered(orders, [second]) == [Place.STORED]
    orders.store(second, NOW, NOW)
    assert entered(orders, come_up([second])) == [Place.FIRST]
    orders.next(second)
    assert entered(orders, [third]) == [Place.FIRST]
    orders.next(third)

    gone, second, third = jobs = pushes(3)
    for one in (*jobs, gone):
        orders.store(one, NOW, NOW)
    come_up(jobs)
    assert entered(orders, [second]) == [Place.STORED]
    assert entered(orders, [second, third], NOW + KEEP_ORDER + 1) == [Place.FIRST, Place.BEHIND]


def test_those_behind_leave_with_one_that_leaves(orders: Orders) -> None:
    first, second, third = pushes(3)
    entered(orders, [first, second, third])
    assert list(orders.end(first)) == [second, third]
    assert not any(orders.behind.values())
    assert entered(orders, [second]) == [Place.FIRST]


def test_what_need_not_be_remembered_makes_room(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    for n in range(4):
        orders.store(*pushes(1, f"old-{n}"), NOW, NOW)
    assert entered(orders, pushes(1, "old-2")) == [Place.STORED]
    assert entered(orders, pushes(1, "old-3")) == [Place.FIRST], "there was no place for it"
    later = NOW + KEEP_ORDER + 1
    orders.store(*pushes(1, "new"), later, later)
    assert entered(orders, [*pushes(1, "new"), *pushes(1, "old-2")], later) == [Place.STORED, Place.FIRST]

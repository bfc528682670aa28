"""Where more waits than is taken at once, every channel has its turn."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from app.model import Lane, Outcome
from app.store import deliveries, inbox
from app.store.rows import Event
from app.store.turns import FIRST
from tests.store.kit import ME, NOW, OTHER, arrival, bodies, delivery, stored, waiting

STARTS = [FIRST, -5, 0, 1, 2, 2**63 - 1]


def flooded(db: Connection) -> None:
    """A hundred calls of channel 1, then one each of five others."""
    inbox.put(db, [arrival(b"flood %d" % n, channel=1) for n in range(100)])
    inbox.put(db, [arrival(b"single %d" % n, channel=n) for n in (-7, 0, 2, 3, 2**60)])


def claim(db: Connection, limit: int, start: int, owner: str = ME, weight: int = 1_000) -> list[Event]:
    return inbox.claim(db, "normal", limit, weight, owner, NOW, 1_000, start)


@pytest.mark.parametrize("start", STARTS)
def test_a_flood_in_one_channel_delays_no_other(db: Connection, start: int) -> None:
    flooded(db)
    taken = bodies(claim(db, 12, start))
    assert {body for body in taken if body.startswith(b"single")} == {b"single %d" % n for n in (-7, 0, 2, 3, 2**60)}
    assert [body for body in taken if body.startswith(b"flood")] == [b"flood %d" % n for n in range(7)]


@pytest.mark.parametrize("start", STARTS)
def test_within_a_channel_nothing_is_overtaken(db: Connection, start: int) -> None:
    flooded(db)
    taken = []
    while some := claim(db, 6, start):
        taken += bodies(some)
        inbox.remove(db, [event.id for event in some])
    assert [body for body in taken if body.startswith(b"flood")] == [b"flood %d" % n for n in range(100)]
    assert len(taken) == 105


def test_whoever_is_first_for_its_channel_goes_before_the_weight_is_used_up(db: Connection) -> None:
    inbox.put(db, [arrival(b"flood %d" % n, channel=1, weight=600) for n in range(10)])
    inbox.put(db, [arrival(b"single", channel=2)])
    assert bodies(claim(db, 4, 2)) == [b"flood 0", b"single"]


def test_channels_whose_calls_somebody_holds_have_no_turn(db: Connection) -> None:
    flooded(db)
    assert len(claim(db, 200, FIRST, OTHER)) == 105
    inbox.put(db, [arrival(b"later %d" % n, channel=9) for n in range(5)])
    assert bodies(claim(db, 2, FIRST)) == [b"later 0", b"later 1"]


def test_what_is_not_to_be_planned_yet_has_no_turn(db: Connection) -> None:
    flooded(db)
    (first,) = claim(db, 1, 2**60)
    inbox.give_back(db, first.id, ME, NOW + 10, 1, failed=False)
    assert first.id not in {event.id for event in claim(db, 100, FIRST)}


def due(db: Connection, limit: int, start: int, lane: int = Lane.NORMAL) -> list[str]:
    rows = deliveries.claim_due(db, "ios", lane, limit, ME, NOW, 1_000, start)
    return [row.uid for row in rows]


@pytest.mark.parametrize("start", STARTS)
def test_a_backlog_of_one_channel_delays_no_others_pushes(db: Connection, start: int) -> None:
    stored(db, *(waiting(f"flood-{n:02}", lane=1, channel=1) for n in range(50)))
    stored(db, *(waiting(f"single-{n}", lane=1, channel=n, due_at=NOW - n) for n in (0, 2, 3)))
    taken = due(db, 8, start)
    assert {uid for uid in taken if uid.startswith("single")} == {"single-0", "single-2", "single-3"}
    assert [uid for uid in taken if uid.startswith("flood")] == [f"flood-{n:02}" for n in range(5)]


def test_each_lane_is_claimed_by_itself(db: Connection) -> None:
    stored(db, waiting("now", lane=0), waiting("normal", lane=1), waiting("bulk", lane=2, due_at=NOW - 5))
    assert [due(db, 10, 0, lane) for lane in Lane] == [["now"], ["normal"], ["bulk"]]


def test_the_next_due_time_is_that_of_the_lanes_asked_for(db: Connection) -> None:
    stored(db, waiting("now", lane=0, due_at=NOW + 3), waiting("bulk", lane=2, due_at=NOW + 1))
    assert deliveries.next_due(db, ["ios"], ME) == NOW + 1
    assert deliveries.next_due(db, ["ios"], ME, [Lane.NOW]) == NOW + 3
    assert deliveries.next_due(db, ["ios"], ME, [Lane.NORMAL]) is None


def test_of_what_is_soon_worth_nothing_the_newest_goes_first(db: Connection) -> None:
    stored(db, *(waiting(f"old-{n:02}", lane=1, channel=1, due_at=NOW - 9) for n in range(20)))
    ages = {"late": NOW - 1, "over": None, "soon": NOW + 1}
    for name, expires_at in ages.items():
        stored(
            db,
            *(
                waiting(f"{name}-{n}", lane=1, channel=1, first_at=NOW - 100 + n, expires_at=expires_at)
                for n in range(3)
            ),
        )
    taken = due(db, 8, FIRST)
    assert [uid for uid in taken if not uid.startswith("old")] == ["soon-1", "soon-2"]


def test_settling_leaves_lane_channel_and_expiry_alone(db: Connection) -> None:
    stored(db, waiting("bob", lane=2, channel=5, expires_at=NOW + 7))
    (row,) = deliveries.claim_due(db, "ios", 2, 1, ME, NOW, 1_000)
    deliveries.update_held_by(db, [delivery("bob", id=row.id, outcome=Outcome.RETRYING, due_at=NOW + 1)], ME)
    (after,) = deliveries.trace(db)
    assert (after.lane, after.channel, after.expires_at) == (2, 5, NOW + 7)


def test_a_single_push_is_another_one_each_time(db: Connection) -> None:
    """It tries whether a provider is well again: one that always fails must not stand for all."""
    stored(db, *(waiting(f"u{n}", lane=1, channel=1) for n in range(3)))
    tried = []
    for turn in range(3):
        (row,) = deliveries.claim_due(db, "ios", 1, 1, ME, NOW + turn, 1_000)
        tried.append(row.uid)
        deliveries.update_held_by(db, [delivery(row.uid, id=row.id, outcome=Outcome.QUEUED, due_at=NOW + turn + 1)], ME)
    assert tried == ["u0", "u1", "u2"]

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from app.store import deliveries, inbox, schema
from app.store.rows import Event
from app.store.schema import FAILED, PLANNED
from app.store.schema import events as table
from tests.store.kit import ME, NOW, OTHER, arrival, bodies, claim, planned, put, rows, waiting


@pytest.mark.parametrize("body", [b"", b"{}", bytes(range(256)), b"x" * 700_000])
def test_a_call_is_kept_byte_for_byte(db: Connection, body: bytes) -> None:
    assert inbox.put(db, [arrival(body, received_at=NOW - 5)]) == 1
    (event,) = claim(db)
    assert (event.kind, event.body, event.received_at, event.attempts) == ("msg.offline", body, NOW - 5, 0)
    assert inbox.load(db, [event.id]) == {event.id: event}


def test_a_repeat_is_kept_once(db: Connection) -> None:
    assert inbox.put(db, [arrival(b"a"), arrival(b"a", received_at=NOW + 1), arrival(b"b")]) == 2
    assert inbox.put(db, [arrival(b"b")]) == 0
    assert bodies(claim(db)) == [b"a", b"b"]


def test_a_repeat_of_a_claimed_or_planned_call_is_one_too(db: Connection) -> None:
    planned(db, b"a")
    put(db, b"b")
    claim(db)
    assert inbox.put(db, [arrival(b"a"), arrival(b"b")]) == 0


def test_a_call_that_is_gone_may_come_again_under_another_id(db: Connection) -> None:
    put(db, b"a")
    (first,) = claim(db)
    inbox.remove(db, [first.id])
    put(db, b"a")
    (second,) = claim(db)
    assert second.id > first.id


def test_the_kind_is_part_of_what_a_repeat_is(db: Connection) -> None:
    assert inbox.put(db, [arrival(b"a"), arrival(b"a", kind="test")]) == 2


def all_waiting(db: Connection) -> list[Event]:
    found, more = inbox.waiting(db, "status", 10, 10_000)
    assert not more
    return found


def test_statuses_are_kept_each_time(db: Connection) -> None:
    same = arrival(b"[]", lane="status", once=False)
    assert inbox.put(db, [same, same]) == 2
    assert inbox.put(db, [same]) == 1
    assert bodies(all_waiting(db)) == [b"[]"] * 3


def test_waiting_calls_come_in_their_order_and_stay(db: Connection) -> None:
    put(db, b"3", b"1", b"2", lane="status", once=False)
    put(db, b"other")
    few, more = inbox.waiting(db, "status", 2, 1_000)
    assert (bodies(few), more) == ([b"3", b"1"], True)
    found = all_waiting(db)
    assert bodies(found) == [b"3", b"1", b"2"]
    inbox.remove(db, [event.id for event in found])
    assert all_waiting(db) == []
    assert bodies(claim(db)) == [b"other"]


def test_waiting_calls_are_bounded_by_weight_and_one_at_the_least(db: Connection) -> None:
    put(db, b"a", b"b", b"c", lane="status", weight=600)
    few, more = inbox.waiting(db, "status", 10, 1_200)
    assert (bodies(few), more) == ([b"a", b"b"], True)
    few, more = inbox.waiting(db, "status", 10, 1)
    assert (bodies(few), more) == ([b"a"], True)


def test_calls_are_claimed_once_in_their_order(db: Connection) -> None:
    put(db, b"b", b"a", b"c")
    put(db, b"bulk", lane="bulk")
    assert bodies(claim(db, limit=2)) == [b"b", b"a"]
    assert bodies(claim(db, OTHER)) == [b"c"]
    assert claim(db) == []
    assert bodies(claim(db, lane="bulk")) == [b"bulk"]


def test_a_claim_is_bounded_by_weight_and_takes_at_least_one(db: Connection) -> None:
    put(db, b"a", b"b", b"c", weight=600)
    put(db, b"d", weight=1)
    assert bodies(claim(db, weight=100)) == [b"a"]
    assert bodies(claim(db, weight=1_200)) == [b"b", b"c"]
    assert bodies(claim(db, weight=1_200)) == [b"d"]


def test_a_large_body_is_heavy_too(db: Connection) -> None:
    put(db, b"x" * 64_000, b"y")
    assert len(claim(db, weight=500)) == 1


def test_a_lease_that_ran_out_is_claimed_again(db: Connection) -> None:
    put(db, b"a")
    claim(db)
    assert claim(db, OTHER, now=NOW + 1_000) == []
    assert bodies(claim(db, OTHER, now=NOW + 1_001)) == [b"a"]


def test_renewed_leases_hold(db: Connection) -> None:
    put(db, b"a")
    claim(db)
    inbox.renew(db, OTHER, NOW)
    inbox.renew(db, ME, NOW + 5_000)
    assert claim(db, OTHER, now=NOW + 5_000) == []
    assert bodies(claim(db, OTHER, now=NOW + 5_001)) == [b"a"]


def test_rescue_frees_what_the_former_process_held(db: Connection) -> None:
    put(db, b"a", b"b", b"c")
    claim(db, limit=1)
    claim(db, OTHER, limit=1)
    assert inbox.free(db, ME) == 1
    assert inbox.free(db, ME) == 0
    assert bodies(claim(db)) == [b"a", b"c"]


def test_work_is_what_could_be_claimed(db: Connection) -> None:
    assert not inbox.has_work(db, ("status", "normal"), NOW)
    put(db, b"a")
    assert inbox.has_work(db, ("status", "normal"), NOW)
    assert not inbox.has_work(db, ("status", "bulk"), NOW)
    (event,) = claim(db)
    assert not inbox.has_work(db, ("normal",), NOW + 1_000)
    assert inbox.has_work(db, ("normal",), NOW + 1_001)
    inbox.give_back(db, event.id, ME, NOW + 9_000, 1, False)
    assert not inbox.has_work(db, ("normal",), NOW + 8_999)
    assert inbox.has_work(db, ("normal",), NOW + 9_000)


def test_a_call_given_back_waits_and_counts(db: Connection) -> None:
    put(db, b"a")
    (event,) = claim(db)
    inbox.give_back(db, event.id, ME, NOW + 500, 3, False)
    assert claim(db, now=NOW + 499) == []
    (again,) = claim(db, OTHER, now=NOW + 500)
    assert (again.id, again.attempts) == (event.id, 3)


def test_a_call_that_failed_too_often_is_set_aside(db: Connection) -> None:
    put(db, b"a")
    (event,) = claim(db)
    inbox.give_back(db, event.id, ME, NOW, 5, True)
    assert claim(db, now=NOW + 10**9) == []
    assert [row.state for row in rows(db, table)] == [FAILED]
    sweep_all(db)
    assert inbox.load(db, [event.id])
    assert inbox.forget_failed(db, event.received_at, 10) == 0
    assert inbox.forget_failed(db, event.received_at + 1, 10) == 1
    assert not inbox.load(db, [event.id])


def test_only_the_holder_gives_back_or_ends_a_call(db: Connection) -> None:
    put(db, b"a")
    (event,) = claim(db)
    claim(db, OTHER, now=NOW + 2_000)
    inbox.give_back(db, event.id, ME, 0, 9, True)
    assert inbox.planned(db, [event.id], ME) == 0
    assert inbox.load(db, [event.id])[event.id].attempts == 0
    assert inbox.free(db, OTHER) == 1


def test_a_planned_call_goes_when_nothing_refers_to_it(db: Connection) -> None:
    put(db, b"refers", b"done")
    refers, done = claim(db)
    deliveries.insert_new(db, [waiting(event_id=refers.id)])
    assert inbox.planned(db, [refers.id, done.id], ME) == 2
    assert list(inbox.load(db, [refers.id, done.id])) == [refers.id]
    assert claim(db, now=NOW + 10**9) == []


def test_sweeping_removes_planned_calls_only(db: Connection) -> None:
    (kept,) = planned(db, b"refers")
    put(db, b"todo", b"claimed")
    todo, claimed = claim(db)
    inbox.free(db, ME)
    claim(db, limit=1)
    ids = [kept, todo.id, claimed.id]
    inbox.sweep(db, ids)
    sweep_all(db)
    assert sorted(inbox.load(db, ids)) == sorted(ids)
    db.execute(schema.deliveries.delete())
    inbox.sweep(db, [*ids, kept])
    assert sorted(inbox.load(db, ids)) == sorted(ids[1:])


def sweep_all(db: Connection) -> int:
    """Sweep from lane to lane, two calls a step; how many steps."""
    place, steps = inbox.sweep_next(db, inbox.START, 2), 1
    while place != inbox.START:
        place, steps = inbox.sweep_next(db, place, 2), steps + 1
    return steps


def test_the_walk_comes_by_every_planned_call(db: Connection) -> None:
    for lane in ("now", "bulk", "normal"):
        put(db, *(f"{lane} {n}".encode() for n in range(4)), lane=lane)
    db.execute(table.update().values(state=PLANNED))
    (kept, *_) = inbox.load(db, range(100))
    deliveries.insert_new(db, [waiting(event_id=kept)])
    put(db, b"todo")
    assert sweep_all(db) == 10, "one to begin with, three a lane"
    assert [event.body for event in inbox.load(db, range(100)).values()] == [b"now 0", b"todo"]


def test_depth_counts_by_lane_what_is_to_be_planned(db: Connection) -> None:
    assert inbox.depth(db) == {}
    planned(db, b"planned")
    put(db, b"a", b"b", received_at=NOW - 9)
    put(db, b"c", received_at=NOW - 7)
    put(db, b"[]", lane="status", once=False)
    claim(db, limit=1)
    put(db, b"n", received_at=NOW - 1, lane="other")
    put(db, b"m", received_at=NOW - 3, lane="bulk")
    for lane in ("other", "bulk"):
        (event,) = claim(db, lane=lane)
        inbox.give_back(db, event.id, ME, 0, 5, True)
    assert inbox.depth(db) == {"normal": (3, NOW - 9), "status": (1, NOW), "failed": (2, NOW - 3)}


def test_more_calls_than_fit_one_statement(db: Connection) -> None:
    put(db, *(str(n).encode() for n in range(1_201)), weight=0)
    ids = [event.id for _ in range(3) for event in claim(db, limit=500)]
    assert len(set(ids)) == 1_201
    assert list(inbox.load(db, ids)) == ids
    assert inbox.planned(db, ids, ME) == 1_201
    assert inbox.load(db, ids) == {}


def test_nothing_is_fine(db: Connection) -> None:
    inbox.remove(db, [])
    inbox.sweep(db, [])
    assert inbox.planned(db, [], ME) == 0
    assert inbox.load(db, []) == {}


def test_a_call_may_be_kept_for_later(db: Connection) -> None:
    put(db, b"later", not_before=NOW + 5)
    put(db, b"now")
    assert bodies(claim(db, now=NOW + 4)) == [b"now"]
    assert not inbox.has_work(db, ["normal"], NOW + 4)
    assert inbox.has_work(db, ["normal"], NOW + 5)
    assert bodies(claim(db, now=NOW + 5)) == [b"later"]


def test_the_oldest_call_of_a_kind_that_is_not_planned(db: Connection) -> None:
    def oldest() -> int | None:
        return inbox.oldest(db, ["normal", "bulk"], "msg.offline")

    assert oldest() is None
    put(db, b"another kind", kind="test", received_at=NOW - 9)
    put(db, b"another lane", lane="notify", received_at=NOW - 8)
    assert oldest() is None
    planned(db, b"planned")
    assert oldest() is None
    put(db, b"large", lane="bulk", received_at=NOW - 1)
    put(db, b"a", received_at=NOW - 2)
    put(db, b"b", received_at=NOW - 1)
    assert oldest() == NOW - 2
    (event,) = claim(db, limit=1, lane="bulk")
    assert oldest() == NOW - 2
    inbox.remove(db, [event.id])
    first, second = (event for event in claim(db, now=NOW) if event.kind == "msg.offline")
    inbox.remove(db, [first.id])
    assert oldest() == NOW - 1, "a claimed call is not planned yet"
    inbox.give_back(db, second.id, ME, 0, 5, failed=True)
    assert oldest() is None


def test_only_what_is_still_held_is_removed(db: Connection) -> None:
    put(db, b"mine", b"lost", b"free")
    mine, lost = claim(db, limit=2)
    assert inbox.remove_held(db, [], ME) == set()
    db.execute(table.update().where(table.c.id == lost.id).values(owner=OTHER))
    (free,) = [row.id for row in rows(db, table) if row.owner is None]
    assert inbox.remove_held(db, [mine.id, lost.id, free], ME) == {mine.id}
    assert sorted(row.id for row in rows(db, table)) == sorted([lost.id, free])


def test_the_oldest_call_may_go_while_it_is_looked_at(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher reads and plans at once, each statement by itself."""
    put(db, b"{}")
    first_of, gone = inbox._first_of, iter([999])
    monkeypatch.setattr(inbox, "_first_of", lambda *which: next(gone, None) or first_of(*which))
    assert inbox.oldest(db, ["normal"], "msg.offline") == NOW

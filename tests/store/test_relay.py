from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event

from app.store import relay
from app.store.dialect import Database
from app.store.relay import SEEN, Copy
from app.store.schema import relay as table
from tests.store.kit import NOW, rows

A, B = "a:80/00000001", "b:80/00000002"


def copy(body: bytes, target: str = A, kind: str = "msg.offline", at: int = NOW, once: bool = True) -> Copy:
    return Copy(target, kind, body, at, once)


def status(body: bytes, at: int = NOW) -> Copy:
    return copy(body, kind="user.onlinestatus", at=at, once=False)


def waiting(db: Connection, target: str = A, kind: str = "msg.offline", limit: int = 100, size: int = 10_000) -> Any:
    return [event.body for event in relay.head(db, target, kind, limit, size)]


def pass_on(db: Connection, target: str = A, kind: str = "msg.offline", at: int = NOW) -> None:
    relay.done(db, [event.id for event in relay.head(db, target, kind, 100, 10_000)], at)


def test_order_is_kept_for_each_target_and_kind(db: Connection) -> None:
    assert relay.put(db, [copy(b"2"), copy(b"1"), copy(b"x", B), copy(b"n", kind="msg.notify"), copy(b"3")]) == 5
    relay.put(db, [copy(b"0"), copy(b"2", B)])
    assert waiting(db) == [b"2", b"1", b"3", b"0"]
    assert waiting(db, B) == [b"x", b"2"]
    assert waiting(db, A, "msg.notify") == [b"n"]
    assert relay.waits(db, A, "msg.notify")
    assert not relay.waits(db, B, "msg.notify")


def test_each_kind_has_its_turn(db: Connection) -> None:
    relay.put(db, [copy(b"x", kind=kind) for kind in ("d", "b", "c", "a")] + [copy(b"y", B, "e")])
    assert relay.kinds(db, A, 9, "", ()) == ["a", "b", "c", "d"]
    assert relay.kinds(db, A, 2, "", ()) == ["a", "b"]
    assert relay.kinds(db, A, 9, "b", ()) == ["c", "d", "a", "b"]
    assert relay.kinds(db, A, 2, "c", ("a",)) == ["d", "b"]
    assert relay.kinds(db, A, 9, "z", "abcd") == []
    assert relay.kinds(db, "other", 9, "", ()) == []


def test_what_was_passed_on_leaves_no_body(db: Connection) -> None:
    relay.put(db, [copy(b"a"), copy(b"b")])
    first, _ = relay.head(db, A, "msg.offline", 9, 9)
    relay.done(db, [first.id], NOW)
    assert waiting(db) == [b"b"]
    assert [(row.body, row.done_at) for row in rows(db, table)] == [(b"", NOW), (b"b", None)]


def test_reading_is_bounded_by_count_and_bytes(db: Connection) -> None:
    relay.put(db, [copy(b"x" * size) for size in (9, 4, 5, 1)])
    assert [len(body) for body in waiting(db, size=1)] == [9]
    assert [len(body) for body in waiting(db, size=18)] == [9, 4, 5]
    assert [len(body) for body in waiting(db, limit=2)] == [9, 4]
    assert waiting(db, B) == []


def test_a_repeat_of_a_message_is_none_to_any_target_that_had_it(db: Connection) -> None:
    assert relay.put(db, [copy(b"a"), copy(b"b"), copy(b"a")]) == 2
    assert relay.put(db, [copy(b"a"), copy(b"a", B), copy(b"a", kind="msg.notify")]) == 2
    pass_on(db)
    assert relay.put(db, [copy(b"a", at=NOW + SEEN), copy(b"b", at=NOW + SEEN)]) == 0
    assert relay.put(db, [copy(b"a", at=NOW + SEEN + 1)]) == 1
    assert waiting(db) == [b"a"]


def test_what_waits_makes_repeats_however_old_it_is(db: Connection) -> None:
    relay.put(db, [copy(b"a")])
    assert relay.put(db, [copy(b"a", at=NOW + 10 * SEEN)]) == 0


def test_only_a_repeat_of_the_newest_status_is_one(db: Connection) -> None:
    assert relay.put(db, [status(b"on"), status(b"on"), status(b"off"), status(b"on"), status(b"on")]) == 3
    assert relay.put(db, [copy(b"another kind"), copy(b"on", B, "user.onlinestatus", once=False)]) == 2
    assert relay.put(db, [status(b"on")]) == 0
    assert relay.put(db, [status(b"off"), status(b"off"), status(b"on")]) == 2
    pass_on(db, kind="user.onlinestatus")
    assert relay.put(db, [status(b"off"), status(b"on"), status(b"on")]) == 2
    pass_on(db, kind="user.onlinestatus")
    assert relay.put(db, [status(b"on", NOW + SEEN)]) == 0
    assert relay.put(db, [status(b"on", NOW + SEEN + 1)]) == 1


def test_a_status_that_others_came_long_after_is_no_repeat_for_sure(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "NEAR", 3)
    relay.put(db, [status(b"on"), copy(b"1"), copy(b"2")])
    assert relay.put(db, [status(b"on")]) == 0
    relay.put(db, [copy(b"3")])
    assert relay.put(db, [status(b"on")]) == 1


def test_only_the_old_are_dropped(db: Connection) -> None:
    relay.put(db, [copy(str(n).encode(), at=NOW + n) for n in range(5)])
    relay.put(db, [copy(b"x", B, at=NOW), copy(b"y", kind="msg.notify", at=NOW)])
    assert relay.drop(db, A, "msg.offline", NOW + 3, 2) == 2
    assert relay.drop(db, A, "msg.offline", NOW + 3, 2) == 1
    assert relay.drop(db, A, "msg.offline", NOW + 3, 2) == 0
    assert waiting(db) == [b"3", b"4"]
    assert (waiting(db, B), waiting(db, kind="msg.notify")) == ([b"x"], [b"y"])


def test_the_oldest_are_given_up_whatever_their_kind(db: Connection) -> None:
    relay.put(db, [copy(b"1"), copy(b"x", B), copy(b"2", kind="a"), copy(b"3"), copy(b"4")])
    assert (relay.count(db, A), relay.count(db, B), relay.count(db, "other")) == (4, 1, 0)
    found = relay.oldest(db, A, 3)
    assert [kind for _, kind in found] == ["msg.offline", "a", "msg.offline"]
    relay.done(db, [found[0][0]], NOW)
    assert relay.give_up(db, [row_id for row_id, _ in found]) == 2
    assert (waiting(db), waiting(db, kind="a"), waiting(db, B)) == ([b"4"], [], [b"x"])


def test_the_oldest_are_found_in_order_however_many_kinds_there_are(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.put(db, [copy(str(n).encode(), kind="cab"[n % 3]) for n in range(9)])
    found = relay.oldest(db, A, 5)
    assert [kind for _, kind in found] == ["c", "a", "b", "c", "a"]
    assert found == sorted(found)
    monkeypatch.setattr(relay, "MERGED", 2)
    assert relay.oldest(db, A, 5) == found
    assert relay.oldest(db, B, 5) == []


def test_the_newest_event_of_any_target(db: Connection) -> None:
    assert relay.newest(db) == 0
    relay.put(db, [copy(b"1"), copy(b"2", B)])
    assert relay.newest(db) == max(row.id for row in rows(db, table))


def test_targets_that_are_configured_no_more(db: Connection) -> None:
    relay.put(db, [copy(b"1", B), copy(b"2", B, at=NOW + 1), copy(b"3", B, "young", NOW + 1), copy(b"4")])
    relay.put(db, [copy(b"5", "c:1/3", kind) for kind in ("x", "y", "z")])
    assert relay.abandoned(db, [A], NOW + 1, 2) == [(B, "msg.offline"), ("c:1/3", "x"), ("c:1/3", "y")]
    assert relay.abandoned(db, [A, "c:1/3"], NOW, 2) == []


def test_what_was_passed_on_is_forgotten_in_small_portions(db: Connection) -> None:
    relay.put(db, [copy(b"1"), copy(b"2"), copy(b"3")])
    pass_on(db, at=NOW)
    relay.put(db, [copy(b"4")])
    assert relay.forget(db, NOW, 2) == 0
    assert relay.forget(db, NOW + 1, 2) == 2
    assert relay.forget(db, NOW + 1, 2) == 1
    assert waiting(db) == [b"4"]


def test_what_waits_and_since_when(db: Connection) -> None:
    relay.put(db, [copy(b"1"), copy(b"2", at=NOW + 1), copy(b"3", at=NOW + 2), copy(b"4", B)])
    relay.done(db, [relay.head(db, A, "msg.offline", 1, 1)[0].id], NOW)
    pass_on(db, B)
    assert relay.depth(db) == {(A, "msg.offline"): (2, NOW + 1)}


def test_many_copies_are_few_statements(database: Database) -> None:
    statements: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with database.write() as connection:
        copies = [copy(str(n).encode(), target) for n in range(100) for target in (A, B)]
        assert relay.put(connection, copies) == 200
    assert len(statements) <= 6

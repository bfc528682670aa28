from __future__ import annotations

import pytest
from sqlalchemy import Connection as Db

from app.model import Connection
from app.store import presence
from tests.store.kit import NOW, UIDS

OPEN = Connection(True, NOW - 9, NOW, opened=2**62, count=3, closed=7, closed_at=NOW - 8)
CLOSED = Connection(False, NOW, NOW)


def test_connections_round_trip(db: Db) -> None:
    users = {"u1": {0: OPEN, 1: CLOSED, 99: OPEN}, "u2": {255: CLOSED}}
    presence.put(db, users)
    assert presence.of_users(db, ["u1", "u2", "nobody"]) == users


@pytest.mark.parametrize("uid", UIDS, ids=range(len(UIDS)))
def test_any_uid_has_connections_of_its_own(db: Db, uid: str) -> None:
    presence.put(db, {uid: {0: OPEN}, "somebody else": {0: CLOSED}})
    assert presence.of_users(db, [uid]) == {uid: {0: OPEN}}


def test_connections_are_replaced_kind_by_kind(db: Db) -> None:
    presence.put(db, {"u1": {0: OPEN, 1: OPEN}})
    presence.put(db, {"u1": {0: CLOSED, 2: OPEN}})
    assert presence.of_users(db, ["u1"]) == {"u1": {0: CLOSED, 1: OPEN, 2: OPEN}}


def test_nothing_is_fine(db: Db) -> None:
    presence.put(db, {})
    presence.put(db, {"u1": {}})
    assert presence.of_users(db, ["u1"]) == {}
    assert presence.of_users(db, []) == {}
    assert presence.online(db) == 0


def test_more_users_than_fit_one_statement(db: Db) -> None:
    users = {f"u{n}": {0: OPEN} for n in range(1_201)}
    presence.put(db, users)
    assert presence.of_users(db, list(users)) == users


def test_a_user_is_online_once(db: Db) -> None:
    presence.put(db, {"u1": {0: OPEN, 1: OPEN}, "u2": {0: CLOSED, 1: OPEN}, "u3": {0: CLOSED}})
    assert presence.online(db) == 2


def test_old_records_are_forgotten_whatever_they_say(db: Db) -> None:
    old = Connection(False, NOW - 10, NOW - 10)
    presence.put(db, {"u1": {0: OPEN, 1: old}, "u2": {0: CLOSED}, "u3": {0: Connection(True, NOW - 10, NOW - 10)}})
    assert presence.forget(db, NOW, 10) == ""
    assert presence.of_users(db, ["u1", "u2", "u3"]).keys() == {"u1", "u2"}
    assert presence.of_users(db, ["u1"])["u1"].keys() == {0}


def test_records_are_walked_a_few_at_a_time(db: Db) -> None:
    old = Connection(False, NOW - 10, NOW - 10)
    presence.put(db, {f"u{n}": {0: old, 1: OPEN if n == 2 else old} for n in range(5)})
    places = [presence.forget(db, NOW, 4)]
    assert presence.of_users(db, ["u0", "u1", "u4"]).keys() == {"u4"}
    while places[-1]:
        places.append(presence.forget(db, NOW, 4, places[-1]))
    assert places == ["u1", "u3", ""]
    assert presence.of_users(db, [f"u{n}" for n in range(5)]) == {"u2": {1: OPEN}}

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event

from app.model import Connection as Presence
from app.model import Settings
from app.store import deliveries, devices, keys, people, presence, schema
from tests.store.kit import NOW, UIDS, delivery, device, rows

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=300) | st.sampled_from(UIDS)


@given(st.lists(NAMES, max_size=8, unique=True))
def test_names_stay_apart_and_fit_the_column(names: list[str]) -> None:
    made = [keys.key(name) for name in names]
    assert len(set(made)) == len(names)
    assert all("\x00" not in key and len(key.encode()) <= keys.MAX_BYTES for key in made)


@pytest.mark.parametrize("name", ["u1", "a-b/c d", "用户", "u" * keys.MAX_BYTES, "\t"])
def test_a_short_name_is_its_own_key(name: str) -> None:
    assert keys.key(name) == name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, max_size=8))
def test_names_come_back(db: Connection, names: list[str]) -> None:
    keys.remember(db, names)
    keys.remember(db, names)
    found = keys.restore(db, map(keys.key, names))
    assert [found.get(keys.key(name), keys.key(name)) for name in names] == names


def test_only_what_is_needed_is_kept(db: Connection) -> None:
    keys.remember(db, ["short", "u" * 5_000, "u" * 5_000])
    assert [row.name for row in rows(db, schema.long_names)] == [b"u" * 5_000]


LONG = [letter * 300 for letter in "abcdefgh"]


def kept(db: Connection) -> list[str]:
    return sorted(row.name.decode() for row in rows(db, schema.long_names))


def test_long_names_that_nothing_names_are_forgotten(db: Connection) -> None:
    trace, owner, settings, status, channel, *unused = LONG
    deliveries.insert_new(db, [delivery(trace)])
    devices.put(db, device(owner))
    people.put_settings(db, settings, Settings())
    presence.put(db, {status: {0: Presence(True, NOW, NOW)}})
    people.put_channel(db, 2, channel, "friends")
    keys.remember(db, unused)
    assert kept(db) == LONG
    assert keys.forget_unused(db) == len(unused)
    assert kept(db) == [trace, owner, settings, status, channel]
    deliveries.forget(db, NOW + 1, 10)
    people.remove_channel(db, 2, channel)
    assert keys.forget_unused(db) == 2
    assert kept(db) == [owner, settings, status]


def test_only_so_many_are_looked_at_each_time_all_the_way_round(db: Connection) -> None:
    keys.remember(db, LONG)
    made = sorted(map(keys.key, LONG))
    assert keys.forget_unused(db, 3, made[6]) == 3
    assert sorted(row.key for row in rows(db, schema.long_names)) == made[1:6]
    assert keys.forget_unused(db, 3, made[6]) == 3
    assert [keys.forget_unused(db, 3) for _ in range(2)] == [2, 0]


def test_long_names_are_looked_for_by_index(db: Connection) -> None:
    keys.remember(db, LONG)
    seen: list[str] = []
    event.listen(db, "before_cursor_execute", lambda *given: seen.append(given[2]))
    keys.forget_unused(db)
    plans = [db.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", ("x",) * sql.count("?")).all() for sql in list(seen)]
    details = [row[-1] for plan in plans for row in plan]
    assert [detail for detail in details if detail.startswith("SCAN") and "channels" not in detail] == []


def test_a_key_that_nobody_remembers(db: Connection) -> None:
    assert keys.restore(db, [keys.key("u" * 500), "short"]) == {}

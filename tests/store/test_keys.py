from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from app.store import keys, schema
from tests.store.kit import UIDS, rows

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


def test_a_key_that_nobody_remembers(db: Connection) -> None:
    assert keys.restore(db, [keys.key("u" * 500), "short"]) == {}

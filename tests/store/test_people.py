from __future__ import annotations

import pytest
from sqlalchemy import Connection

from app.model import Settings
from app.store import people
from tests.store.kit import UIDS

FULL = Settings("Ann \U0001f600", "zh-CN", False)


@pytest.mark.parametrize("value", [FULL, Settings(), Settings(show_content=True), Settings(name="n" * 255)])
def test_settings_round_trip(db: Connection, value: Settings) -> None:
    people.put_settings(db, "u1", value)
    assert people.settings(db, ["u1", "nobody"]) == {"u1": value}


@pytest.mark.parametrize("uid", UIDS, ids=range(len(UIDS)))
def test_any_uid_has_settings_of_its_own(db: Connection, uid: str) -> None:
    people.put_settings(db, uid, FULL)
    people.put_settings(db, "somebody else", Settings())
    assert people.settings(db, [uid]) == {uid: FULL}


def test_settings_are_replaced_whole(db: Connection) -> None:
    people.put_settings(db, "u1", FULL)
    people.put_settings(db, "u1", Settings(locale="en"))
    assert people.settings(db, ["u1"]) == {"u1": Settings(locale="en")}


def test_more_users_than_fit_one_statement(db: Connection) -> None:
    uids = [f"u{n}" for n in range(1_201)]
    for uid in uids:
        people.put_settings(db, uid, Settings(uid))
    assert people.settings(db, uids) == {uid: Settings(uid) for uid in uids}
    assert people.settings(db, []) == {}


@pytest.mark.parametrize("channel_id", UIDS, ids=range(len(UIDS)))
def test_any_channel_has_a_name_of_its_own(db: Connection, channel_id: str) -> None:
    assert people.put_channel(db, 2, channel_id, "friends")
    assert people.put_channel(db, 4, channel_id, "community")
    assert people.put_channel(db, 2, "another", "others")
    wanted = [(2, channel_id), (4, channel_id), (5, channel_id)]
    assert people.channel_names(db, wanted) == {(2, channel_id): "friends", (4, channel_id): "community"}
    assert people.remove_channel(db, 2, channel_id)
    assert people.channel_names(db, wanted) == {(4, channel_id): "community"}
    assert not people.remove_channel(db, 2, channel_id)


def test_a_channel_is_renamed(db: Connection) -> None:
    assert people.put_channel(db, 2, "g", "old")
    assert not people.put_channel(db, 2, "g", "new \U0001f600")
    assert people.channel_names(db, [(2, "g"), (2, "h")]) == {(2, "g"): "new \U0001f600"}
    assert people.channel_names(db, []) == {}

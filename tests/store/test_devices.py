from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from app.model import Device
from app.store import devices
from app.store.rows import Drop
from tests.store.kit import NOW, UIDS, device

FULL = Device("u1", "d1", "ios", "token", NOW - 5, NOW - 3, "zh-CN", 2, "voip-token", "1.2.3")


def of(db: Connection, uid: str = "u1") -> list[Device]:
    return devices.of_users(db, [uid]).get(uid, [])


def test_every_field_round_trips(db: Connection) -> None:
    assert devices.put(db, FULL)
    assert of(db) == [FULL]


@pytest.mark.parametrize("uid", UIDS, ids=range(len(UIDS)))
def test_any_uid_round_trips(db: Connection, uid: str) -> None:
    mine = device(uid, token="mine")
    devices.put(db, mine)
    devices.put(db, device("somebody else", token="theirs"))
    assert devices.of_users(db, [uid, "nobody"]) == {uid: [mine]}
    assert devices.remove(db, uid, "d1")
    assert of(db, uid) == []


@pytest.mark.parametrize("token", ["t", "t" * 8_000, "汉\x00\U0001f600"])
def test_any_token_round_trips(db: Connection, token: str) -> None:
    devices.put(db, device(token=token))
    assert [found.token for found in of(db)] == [token]


def test_renewing_replaces_every_field(db: Connection) -> None:
    devices.put(db, FULL)
    renewed = Device("u1", "d1", "android", "other", NOW, NOW + 1, "en", 1, "", "2")
    assert not devices.put(db, renewed)
    assert of(db) == [renewed]


def test_a_renewal_with_the_same_token_is_one_device(db: Connection) -> None:
    devices.put(db, FULL)
    assert not devices.put(db, replace(FULL, registered_at=NOW + 9))
    assert [found.registered_at for found in of(db)] == [NOW + 9]


def test_a_token_moves_to_another_user(db: Connection) -> None:
    devices.put(db, device("old owner"))
    devices.put(db, device("old owner", "d2", "another"))
    assert devices.put(db, device("new owner"))
    assert [found.device_id for found in of(db, "old owner")] == ["d2"]
    assert len(of(db, "new owner")) == 1


def test_a_token_moves_to_another_device_id(db: Connection) -> None:
    devices.put(db, device())
    assert devices.put(db, device(device_id="installed again"))
    assert [found.device_id for found in of(db)] == ["installed again"]


def test_a_token_moves_onto_a_device_that_had_another(db: Connection) -> None:
    devices.put(db, device("a", token="moves"))
    devices.put(db, device("b", token="replaced"))
    assert not devices.put(db, device("b", token="moves"))
    assert (of(db, "a"), [found.token for found in of(db, "b")]) == ([], ["moves"])


def test_two_providers_may_use_the_same_token(db: Connection) -> None:
    devices.put(db, device("a", provider="ios"))
    devices.put(db, device("b", provider="sandbox"))
    assert len(devices.of_users(db, ["a", "b"])) == 2


def test_many_users_at_once_in_a_stable_order(db: Connection) -> None:
    uids = [f"u{n}" for n in range(1_201)]
    for uid in uids:
        devices.put(db, device(uid, "d2", f"{uid} second"))
    devices.put(db, device("u7", "d1", "u7 first"))
    found = devices.of_users(db, [*uids, "nobody"])
    assert found.keys() == set(uids)
    assert [each.device_id for each in found["u7"]] == ["d1", "d2"]
    assert devices.of_users(db, []) == {}


def test_what_a_push_needs(db: Connection) -> None:
    devices.put(db, FULL)
    devices.put(db, device(device_id="d2", token="second"))
    devices.put(db, device("u" * 5_000, token="third"))
    found = devices.to_push(db, ["u1", "u" * 5_000, "nobody"])
    assert found.keys() == {"u1", "u" * 5_000}
    assert sorted(each.device_id for each in found["u1"]) == ["d1", "d2"]
    (first,) = (each for each in found["u1"] if each.device_id == "d1")
    for name in ("uid", "device_id", "provider", "token", "registered_at", "locale"):
        assert getattr(first, name) == getattr(FULL, name)


def test_removing(db: Connection) -> None:
    devices.put(db, device())
    assert not devices.remove(db, "u1", "d2")
    assert not devices.remove(db, "u2", "d1")
    assert devices.remove(db, "u1", "d1")
    assert not devices.remove(db, "u1", "d1")


@pytest.mark.parametrize(
    ("drop", "removed"),
    [
        (Drop("u1", "d1", "some-token", NOW + 1), 1),
        (Drop("u1", "d1", "some-token", NOW), 0),
        (Drop("u1", "d1", "former token", NOW + 1), 0),
        (Drop("u1", "d2", "some-token", NOW + 1), 0),
        (Drop("u2", "d1", "some-token", NOW + 1), 0),
    ],
)
def test_a_dead_token_goes_unless_it_was_registered_again(db: Connection, drop: Drop, removed: int) -> None:
    devices.put(db, device())
    assert devices.drop(db, [drop]) == removed
    assert len(of(db)) == 1 - removed


def test_dropping_several(db: Connection) -> None:
    long = "u" * 5_000
    devices.put(db, device("u1", token="a"))
    devices.put(db, device(long, token="b"))
    drops = [Drop("u1", "d1", "a", NOW + 1), Drop(long, "d1", "b", NOW + 1), Drop("u1", "d1", "a", NOW + 1)]
    assert devices.drop(db, drops) == 2
    assert devices.drop(db, []) == 0


def test_counting(db: Connection) -> None:
    assert devices.count(db) == {}
    for number, provider in enumerate(["ios", "ios", "android"]):
        devices.put(db, device(f"u{number}", provider=provider, token=f"t{number}"))
    assert devices.count(db) == {"ios": 2, "android": 1}

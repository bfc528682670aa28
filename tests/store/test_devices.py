from __future__ import annotations

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

from app.model import Device
from app.store import devices
from app.store.rows import Drop, Touch
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


def dead(
    uid: str = "u1", device_id: str = "d1", token: str = "some-token", before: int = NOW + 1, provider: str = "ios"
) -> Drop:
    return Drop(uid, device_id, provider, token, before, "Unregistered")


def in_quarantine(db: Connection, *uids: str) -> set[tuple[str, str]]:
    """(uid, device id) of those of these users' devices that are listed with the removed ones only."""
    listed = devices.of_users(db, uids or ["u1"], removed=True)
    return {(each.uid, each.device_id) for of in listed.values() for each in of if each.removed_at is not None}


@pytest.mark.parametrize(
    ("drop", "removed"),
    [
        (dead(), 1),
        (dead(before=NOW), 0),
        (dead(token="former token"), 0),
        (dead(token="SOME-TOKEN"), 0),
        (dead(device_id="d2"), 0),
        (dead("u2"), 0),
        (dead(provider="sandbox"), 0),
    ],
)
def test_a_dead_token_goes_unless_it_was_registered_again(db: Connection, drop: Drop, removed: int) -> None:
    devices.put(db, device())
    assert devices.drop(db, [drop], NOW + 5) == removed
    assert len(of(db)) == 1 - removed
    assert len(in_quarantine(db)) == removed


def test_dropping_several(db: Connection) -> None:
    long = "u" * 5_000
    devices.put(db, device("u1", token="a"))
    devices.put(db, device(long, token="b"))
    assert devices.drop(db, [dead(token="a"), dead(long, token="b"), dead(token="a")], NOW) == 2
    assert devices.drop(db, [], NOW) == 0
    assert in_quarantine(db, "u1", long) == {("u1", "d1"), (long, "d1")}


def test_what_is_in_quarantine_is_found_where_it_is_asked_for_only(db: Connection) -> None:
    devices.put(db, FULL)
    devices.put(db, device(device_id="d2", token="lives"))
    reason = "Unregistered" * 50
    devices.drop(db, [Drop("u1", "d1", "ios", "token", NOW, reason)], NOW + 7)
    assert [each.device_id for each in of(db)] == ["d2"]
    assert [each.device_id for each in devices.to_push(db, ["u1"])["u1"]] == ["d2"]
    assert [each.device_id for each in devices.all_of(db, None, 10)] == ["d2"]
    assert devices.count(db) == {"ios": 1}
    removed = replace(FULL, removed_at=NOW + 7, removed_reason=reason[:255])
    assert devices.of_users(db, ["u1"], removed=True)["u1"] == [removed, device(device_id="d2", token="lives")]
    assert devices.all_of(db, "ios", 10, removed=True)[0] == removed
    assert devices.all_of(db, "android", 10, removed=True) == []


def test_what_is_in_quarantine_is_not_dropped_again(db: Connection) -> None:
    devices.put(db, device())
    devices.drop(db, [dead()], NOW + 1)
    assert devices.drop(db, [dead()], NOW + 2) == 0
    (found,) = devices.of_users(db, ["u1"], removed=True)["u1"]
    assert found.removed_at == NOW + 1


@pytest.mark.parametrize("token", ["some-token", "another"])
def test_registering_again_ends_a_quarantine(db: Connection, token: str) -> None:
    devices.put(db, device())
    devices.drop(db, [dead()], NOW + 1)
    again = device(token=token, registered_at=NOW + 2)
    assert devices.put(db, again), "as good as new"
    assert of(db) == [again]
    assert not devices.put(db, again)


@pytest.mark.parametrize(("uid", "device_id"), [("u2", "d1"), ("u1", "d2")])
def test_a_token_in_quarantine_moves_to_who_registers_it(db: Connection, uid: str, device_id: str) -> None:
    devices.put(db, device())
    devices.drop(db, [dead()], NOW + 1)
    assert devices.put(db, device(uid, device_id))
    assert in_quarantine(db, "u1", "u2") == set()
    assert devices.restore(db, "ios", NOW) == 0
    assert [(each.uid, each.device_id) for each in devices.all_of(db, None, 10)] == [(uid, device_id)]


def test_removing_what_is_in_quarantine(db: Connection) -> None:
    devices.put(db, device())
    devices.drop(db, [dead()], NOW + 1)
    assert devices.remove(db, "u1", "d1")
    assert not devices.remove(db, "u1", "d1")
    assert devices.restore(db, "ios", 0) == 0


def test_a_success_is_noted_of_the_token_that_had_it(db: Connection) -> None:
    devices.put(db, device())
    devices.put(db, device(device_id="d2", token="second"))
    devices.touch(db, [])
    fields = {"uid": "u1", "device_id": "d1", "provider": "ios", "token": "some-token"}
    others = [{"uid": "u2"}, {"device_id": "d2"}, {"provider": "android"}, {"token": "SOME-TOKEN"}]
    devices.touch(db, [Touch(**(fields | other), at=NOW + 5) for other in others])
    assert {each.succeeded_at for each in of(db)} == {0}
    devices.touch(db, [Touch(**fields, at=NOW + 6), Touch("u1", "d2", "ios", "second", NOW + 7)])
    assert [each.succeeded_at for each in of(db)] == [NOW + 6, NOW + 7]
    assert sorted(each.succeeded_at for each in devices.to_push(db, ["u1"])["u1"]) == [NOW + 6, NOW + 7]


def removed_at(db: Connection, uid: str, at: int, reason: str = "Unregistered", provider: str = "ios") -> None:
    """A device that came into quarantine then."""
    devices.put(db, device(uid, token=uid, provider=provider))
    assert devices.drop(db, [Drop(uid, "d1", provider, uid, NOW + 1, reason)], at) == 1


def test_what_came_into_quarantine_since_then_is_taken_back(db: Connection) -> None:
    removed_at(db, "before", NOW + 9)
    removed_at(db, "since", NOW + 10)
    removed_at(db, "later", NOW + 11, "BadDeviceToken")
    removed_at(db, "elsewhere", NOW + 11, provider="android")
    uids = ["before", "since", "later", "elsewhere"]
    assert devices.restore(db, "ios", NOW + 10) == 2
    assert in_quarantine(db, *uids) == {("before", "d1"), ("elsewhere", "d1")}
    assert devices.of_users(db, ["later"])["later"] == [device("later", token="later")]
    assert devices.restore(db, "ios", NOW + 10) == 0


def test_only_what_went_for_some_reasons_is_taken_back(db: Connection) -> None:
    for number, reason in enumerate(["BadDeviceToken", "Unregistered", "DeviceTokenNotForTopic"]):
        removed_at(db, f"u{number}", NOW + 1, reason)
    assert devices.restore(db, "ios", NOW, ()) == 0
    assert devices.restore(db, "ios", NOW, ("BadDeviceToken", "DeviceTokenNotForTopic")) == 2
    assert in_quarantine(db, "u0", "u1", "u2") == {("u1", "d1")}


def test_what_went_for_a_long_reason_is_taken_back(db: Connection) -> None:
    long = "x" * 300
    removed_at(db, "u1", NOW + 1, long)
    removed_at(db, "u2", NOW + 1, "x" * 254)
    assert devices.restore(db, "ios", NOW, [long]) == 1
    assert in_quarantine(db, "u1", "u2") == {("u2", "d1")}


def test_taking_back_and_forgetting_are_bounded(db: Connection) -> None:
    for number in range(7):
        removed_at(db, f"u{number}", NOW + number)
    assert [devices.restore(db, "ios", NOW + 4, limit=2) for _ in range(3)] == [2, 1, 0]
    assert [devices.forget_removed(db, NOW + 3, 2) for _ in range(3)] == [2, 1, 0]
    assert in_quarantine(db, *(f"u{number}" for number in range(7))) == {("u3", "d1")}
    assert len(devices.all_of(db, None, 10)) == 3, "what is not in quarantine is not forgotten"


def test_two_devices_that_swap_their_tokens(db: Connection) -> None:
    devices.put(db, device(device_id="d1", token="a"))
    devices.put(db, device(device_id="d2", token="b"))
    assert not devices.put(db, device(device_id="d1", token="b", registered_at=NOW + 1))
    assert devices.put(db, device(device_id="d2", token="a", registered_at=NOW + 1))
    assert {each.device_id: each.token for each in of(db)} == {"d1": "b", "d2": "a"}
    refused = [dead(device_id="d1", token="a", before=NOW + 9), dead(device_id="d2", token="b", before=NOW + 9)]
    assert devices.drop(db, refused, NOW + 2) == 0


def test_a_token_that_comes_back_outlives_what_was_said_of_it_before(db: Connection) -> None:
    for at, token in enumerate("aba"):
        devices.put(db, device(token=token, registered_at=NOW + at))
    assert devices.drop(db, [dead(token="a", before=NOW + 1), dead(token="b", before=NOW + 2)], NOW + 3) == 0
    assert [each.token for each in of(db)] == ["a"]


def test_counting(db: Connection) -> None:
    assert devices.count(db) == {}
    for number, provider in enumerate(["ios", "ios", "android"]):
        devices.put(db, device(f"u{number}", provider=provider, token=f"t{number}"))
    assert devices.count(db) == {"ios": 2, "android": 1}

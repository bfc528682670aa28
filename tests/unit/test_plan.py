from __future__ import annotations

from typing import Any

import pytest

from app.model import SUCCESS_KEPT_EVERY, Connection, Connections, Decision, Device, Hold, Message, Outcome, Push, Skip
from app.plan import Policy, held, is_expired, is_stale, message_skip, recipient

NOW = 1_785_398_400_000
RECEIVED = NOW - 500
DEVICES = (Device("u", "d1", "ios", "t1", NOW), Device("u", "d2", "android", "t2", NOW))
PUSHES = [Push(device) for device in DEVICES]
POLICY = Policy(ttl=60_000)
ASKING = Policy(ttl=60_000, ask_after=300)
OFFLINE: Connections = {0: Connection(False, NOW, NOW)}
ONLINE: Connections = {0: Connection(True, NOW, NOW)}
DOUBTFUL: Connections = {0: Connection(True, NOW - 90_000, NOW - 60_001)}
WEB: Connections = {1: Connection(True, NOW, NOW)}
SUPPRESSED = [Skip(Outcome.SUPPRESSED, "online")]


def message(**fields: Any) -> Message:
    return Message(**{"message_id": 1, "from_uid": "a", "timestamp": NOW // 1000, **fields})


@pytest.mark.parametrize(
    ("fields", "kind", "reason"),
    [
        ({}, 1, None),
        ({"sync_once": True}, 1, "sync_once"),
        ({}, 99, "type"),
        ({"expire": 1}, 1, None),
        ({"expire": 60, "timestamp": NOW // 1000 - 60}, 1, "expired"),
        ({"expire": 60, "timestamp": NOW // 1000 - 59}, 1, None),
        ({"expire": 0, "timestamp": 0}, 1, None),
    ],
)
def test_what_nobody_gets(fields: dict[str, Any], kind: int, reason: str | None) -> None:
    policy = Policy(skip_types=frozenset({99}))
    expected = None if reason is None else Skip(Outcome.SKIPPED, reason)
    assert message_skip(message(**fields), kind, policy, NOW) == expected


def test_a_message_expires_with_its_last_millisecond() -> None:
    brief = message(timestamp=NOW // 1000, expire=10)
    assert not is_expired(brief, NOW + 9_999)
    assert is_expired(brief, NOW + 10_000)


@pytest.mark.parametrize(
    ("connections", "policy", "decisions"),
    [
        ({}, POLICY, PUSHES),
        (OFFLINE, POLICY, PUSHES),
        (ONLINE, POLICY, [Hold(RECEIVED + 3_000)]),
        (ONLINE, ASKING, [Hold(RECEIVED + 300)]),
        (ONLINE, Policy(ask_after=300, hold=100), [Hold(RECEIVED + 100)]),
        (ONLINE, Policy(suppress="none"), PUSHES),
        (WEB, Policy(suppress="app"), PUSHES),
        (WEB, POLICY, [Hold(RECEIVED + 3_000)]),
        (DOUBTFUL, POLICY, PUSHES),
        (DOUBTFUL, ASKING, [Hold(RECEIVED + 300)]),
    ],
)
def test_a_recipient_who_looks_so(connections: Connections, policy: Policy, decisions: list[Decision]) -> None:
    assert recipient(message(), "u", DEVICES, connections, policy=policy, received_at=RECEIVED, now=NOW) == decisions


def test_the_sender_is_skipped_before_anything_else() -> None:
    for devices in (DEVICES, ()):
        found = recipient(message(from_uid="u"), "u", devices, ONLINE, policy=POLICY, received_at=RECEIVED, now=NOW)
        assert found == [Skip(Outcome.SKIPPED, "sender")]


def test_without_a_device_nobody_is_held() -> None:
    found = recipient(message(), "u", (), ONLINE, policy=POLICY, received_at=RECEIVED, now=NOW)
    assert found == [Skip(Outcome.SKIPPED, "no_device")]


@pytest.mark.parametrize(
    ("connections", "asked", "age", "decisions"),
    [
        (OFFLINE, False, 500, PUSHES),
        (OFFLINE, True, 500, PUSHES),
        (ONLINE, False, 2_999, [Hold(NOW + 1)]),
        (ONLINE, False, 3_000, SUPPRESSED),
        (ONLINE, True, 300, SUPPRESSED),
        (DOUBTFUL, False, 3_000, PUSHES),
        (DOUBTFUL, True, 300, SUPPRESSED),
        ({}, False, 500, PUSHES),
    ],
)
def test_a_held_recipient_whose_time_has_come(
    connections: Connections, asked: bool, age: int, decisions: list[Decision]
) -> None:
    for policy in (POLICY, ASKING):
        found = held(DEVICES, connections, policy=policy, asked=asked, received_at=NOW - age, now=NOW)
        assert found == decisions


def test_a_held_recipient_whose_devices_are_gone() -> None:
    found = held((), OFFLINE, policy=POLICY, asked=False, received_at=RECEIVED, now=NOW)
    assert found == [Skip(Outcome.SKIPPED, "no_device")]


def test_a_hold_of_nothing_suppresses_at_once() -> None:
    policy = Policy(hold=0)
    [hold] = recipient(message(), "u", DEVICES, ONLINE, policy=policy, received_at=NOW, now=NOW)
    assert hold == Hold(NOW)
    assert held(DEVICES, ONLINE, policy=policy, asked=False, received_at=NOW, now=NOW) == SUPPRESSED


AGE = 90 * 86_400_000
STRICT = Policy(ttl=60_000, stale_after=AGE)
LAST = RECEIVED - AGE - SUCCESS_KEPT_EVERY
"""The oldest sign of life that counts."""


@pytest.mark.parametrize(
    ("registered_at", "succeeded_at", "stale"),
    [
        (LAST, 0, False),
        (LAST - 1, 0, True),
        (LAST - 1, LAST, False),
        (LAST, LAST - 1, False),
        (LAST - 1, LAST - 1, True),
        (NOW, 0, False),
        (0, NOW, False),
    ],
)
def test_a_device_without_a_sign_of_life(registered_at: int, succeeded_at: int, stale: bool) -> None:
    device = Device("u", "d1", "ios", "t1", registered_at, succeeded_at=succeeded_at)
    assert is_stale(device, STRICT, RECEIVED) is stale
    assert not is_stale(device, POLICY, RECEIVED)


OLD = tuple(Device("u", name, "ios", name, LAST - 1) for name in ("old", "older"))
STALE: list[Decision] = [Skip(Outcome.SKIPPED, "stale", device) for device in OLD]


@pytest.mark.parametrize(
    ("connections", "devices", "decisions"),
    [
        (OFFLINE, (*OLD, *DEVICES), [*STALE, *PUSHES]),
        (ONLINE, (*OLD, *DEVICES), [*STALE, Hold(RECEIVED + 3_000)]),
        (OFFLINE, OLD, STALE),
        (ONLINE, OLD, STALE),
        (OFFLINE, DEVICES, PUSHES),
    ],
)
def test_stale_devices_are_skipped_one_by_one(
    connections: Connections, devices: tuple[Device, ...], decisions: list[Decision]
) -> None:
    found = recipient(message(), "u", devices, connections, policy=STRICT, received_at=RECEIVED, now=NOW)
    assert found == decisions


def test_stale_devices_of_a_held_recipient_stay_skipped() -> None:
    def released(devices: tuple[Device, ...]) -> list[Decision]:
        return held(devices, OFFLINE, policy=STRICT, asked=False, received_at=RECEIVED, now=NOW)

    assert released((*OLD, *DEVICES)) == PUSHES
    assert released(OLD) == [Skip(Outcome.SKIPPED, "stale")]


def test_a_device_that_was_there_when_the_message_came_is_not_stale_by_the_end_of_the_hold() -> None:
    device = Device("u", "d", "ios", "t", LAST)
    found = held((device,), OFFLINE, policy=STRICT, asked=False, received_at=RECEIVED, now=RECEIVED + 60_000)
    assert found == [Push(device)]


def test_a_device_that_was_there_when_the_message_came_is_not_stale_after_a_backlog() -> None:
    device = Device("u", "d", "ios", "t", LAST)
    found = recipient(message(), "u", (device,), {}, policy=STRICT, received_at=RECEIVED, now=RECEIVED + 60_000)
    assert found == [Push(device)]

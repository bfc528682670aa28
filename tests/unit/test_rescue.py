from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from app import events, presence
from app.model import Connection, Connections, Message, Status
from app.plan import Policy
from app.rescue import LATE, left_out, passed_over, readings

CAPTURED = Path(__file__).parents[1] / "fixtures" / "wukongim"
NOW = 1_785_398_400_000
POLICY = Policy(hold=3_000, ttl=3_600_000, skip_types=frozenset({99}))
UIDS = st.text(st.sampled_from("ab@-é"), min_size=1, max_size=6) | st.text(
    st.characters(codec="utf-8"), min_size=1, max_size=12
)


def message(sender: str, channel: str, **fields: object) -> Message:
    return Message(message_id=1, from_uid=sender, channel_id=channel, **fields)  # type: ignore[arg-type]


def joined(a: str, b: str) -> str:
    return f"{a}@{b}" if crc32(a.encode()) > crc32(b.encode()) else f"{b}@{a}"


def captured(line: str) -> Iterator[tuple[Message, set[str]]]:
    """Person messages of msg.notify that msg.offline named somebody for, and whom beside the sender."""
    rows = [json.loads(row) for row in (CAPTURED / f"{line}.jsonl").read_text().splitlines()]
    named: dict[int, set[str]] = {}
    for row in rows:
        if "msg.offline" in row["query"]:
            said, recipients = events.offline(row["body"].encode())
            named.setdefault(said.message_id, set()).update(set(recipients.uids) - {said.from_uid})
    for row in rows:
        if "msg.notify" in row["query"]:
            for found in events.notify(row["body"].encode())[0]:
                if not passed_over(found, 1, POLICY, found.timestamp * 1000) and named.get(found.message_id):
                    yield found, named[found.message_id]


@pytest.mark.parametrize(("line", "fewest"), [("v2", 300), ("v3", 80)])
def test_the_receiver_of_every_captured_message_is_found(line: str, fewest: int) -> None:
    checked = 0
    for found, named in captured(line):
        (uid,) = named
        others = set(readings(found)) - {uid}
        assert others == ({found.channel_id} if line == "v3" else set()), found.channel_id
        assert uid in readings(found)
        checked += 1
    assert checked >= fewest


@given(UIDS, UIDS)
@example("bob", "bob@ann")
@example("x", "y@x")
@example("x@y", "x")
def test_the_receiver_is_among_the_readings_on_both_lines(sender: str, receiver: str) -> None:
    assume(receiver not in (sender, f"{sender}@{sender}"))
    assert receiver in readings(message(sender, joined(sender, receiver)))
    assert receiver in readings(message(sender, receiver))


@given(UIDS, UIDS)
def test_nobody_is_read_into_a_channel_who_could_not_have_one(sender: str, channel: str) -> None:
    for uid in readings(message(sender, channel)):
        assert uid not in ("", sender)
        assert channel in (uid, joined(sender, uid))


@pytest.mark.parametrize(
    ("sender", "channel", "found"),
    [
        ("ann", "bob", ("bob",)),
        ("ann", "ann", ()),
        ("ann", "ann@ann", ()),
        ("ann", "", ()),
        ("ann", "ann@", ("ann@",)),
        ("s3from", "s3from@s3d", ("s3d", "s3from@s3d")),
        ("s3d", "s3from@s3d", ("s3from", "s3from@s3d")),
        ("s3from", "s3d@s3from", ("s3d@s3from",)),  # not v3's order, so it is one uid that holds an @
        ("ann@a.org", "bob@b.org", ("bob@b.org",)),
        ("ann@a.org", joined("ann@a.org", "bob@b.org"), ("bob@b.org", joined("ann@a.org", "bob@b.org"))),
    ],
)  # fmt: skip
def test_readings(sender: str, channel: str, found: tuple[str, ...]) -> None:
    assert readings(message(sender, channel)) == found


@pytest.mark.parametrize(
    ("fields", "payload_type", "reason"),
    [
        ({}, 1, ""),
        ({"setting": 0x20}, 0, ""),
        ({"channel_type": 2}, 1, "channel"),
        ({"channel_type": 0}, 1, "channel"),
        ({"channel_id": "bob____cmd"}, 1, "command"),
        ({"channel_id": "ann@bob____cmd"}, 1, "command"),
        ({"channel_id": "____cmd bob"}, 1, ""),
        ({"channel_id": "____system", "from_uid": ""}, 1, "system"),
        ({"channel_id": "____system"}, 1, "system"),
        ({"from_uid": ""}, 1, "system"),
        ({"from_uid": "____system", "channel_id": "bob@____system"}, 1, ""),
        ({"sync_once": True}, 1, "sync_once"),
        ({}, 99, "type"),
        ({"timestamp": NOW // 1000 - 10, "expire": 10}, 1, "expired"),
        ({"timestamp": NOW // 1000 - 10, "expire": 11}, 1, ""),
    ],
)
def test_what_rings_nobody_is_passed_over(fields: dict[str, object], payload_type: int, reason: str) -> None:
    known = {"from_uid": "ann", "channel_id": "bob"}
    assert passed_over(Message(message_id=1, **(known | fields)), payload_type, POLICY, NOW) == reason  # type: ignore[arg-type]


def closed(at: int) -> Connection:
    return Connection(False, at, at, count=0, closed=7, closed_at=at)


def opened(at: int, seen: int | None = None) -> Connection:
    return Connection(True, at, seen or at, opened=7, count=1)


HOUR = POLICY.ttl
NOBODY: frozenset[int] = frozenset()


@pytest.mark.parametrize(
    ("suppress", "known", "online", "reason"),
    [
        ("any", {}, None, "unknown"),
        ("any", {}, NOBODY, ""),
        ("any", {}, {1}, "online"),
        ("any", {0: closed(NOW - HOUR * 9)}, None, ""),
        ("any", {0: closed(NOW + LATE)}, None, ""),
        ("any", {0: closed(NOW + LATE + 1)}, None, "was_online"),
        ("any", {0: closed(NOW + LATE + 1)}, NOBODY, "was_online"),
        ("any", {0: closed(NOW), 1: closed(NOW + LATE + 1)}, None, "was_online"),
        ("any", {0: opened(NOW)}, None, "online"),
        ("any", {0: opened(NOW)}, NOBODY, ""),
        ("any", {0: closed(NOW), 1: opened(NOW)}, None, "online"),
        ("any", {0: opened(NOW - 2 * HOUR)}, None, "unknown"),
        ("any", {0: opened(NOW - 2 * HOUR)}, {0}, "online"),
        ("app", {1: opened(NOW)}, None, "unknown"),
        ("app", {1: opened(NOW), 0: closed(NOW)}, None, ""),
        ("app", {1: closed(NOW + LATE + 1), 0: closed(NOW)}, None, ""),
        ("app", {0: closed(NOW + LATE + 1)}, None, "was_online"),
        ("app", {}, {1}, ""),
        ("app", {}, {0, 1}, "online"),
        ("none", {0: opened(NOW)}, None, "online"),
        ("none", {1: closed(NOW)}, None, ""),
        ("none", {}, None, "unknown"),
        ("none", {}, {1}, "online"),
    ],
)
def test_who_is_pushed(suppress: str, known: Connections, online: set[int] | None, reason: str) -> None:
    policy = Policy(suppress=suppress, hold=POLICY.hold, ttl=HOUR)
    named = None if online is None else frozenset(online)
    assert left_out(known, named, policy=policy, came_at=NOW, now=NOW + LATE + 2) == reason


def test_a_record_that_was_corrected_does_not_say_when_they_left() -> None:
    wrong = {0: opened(NOW - HOUR)}
    corrected = presence.correct(wrong, NOBODY, NOW + 10_000)
    assert not corrected[0].online
    assert left_out(corrected, None, policy=POLICY, came_at=NOW, now=NOW + 10_001) == ""


def test_where_less_is_waited_for_a_late_close_less_is_late() -> None:
    policy = Policy(hold=500)
    assert left_out({0: closed(NOW + 500)}, None, policy=policy, came_at=NOW, now=NOW + 9_000) == ""
    assert left_out({0: closed(NOW + 501)}, None, policy=policy, came_at=NOW, now=NOW + 9_000) == "was_online"


def test_a_late_repeat_of_an_older_close_does_not_say_so_either() -> None:
    known = {0: Connection(False, NOW - HOUR, NOW + 9_000, count=0, closed=6, closed_at=NOW + 9_000)}
    assert left_out(known, None, policy=POLICY, came_at=NOW, now=NOW + 10_000) == ""


@given(
    st.lists(st.integers(1, 20_000), min_size=1, max_size=5, unique=True),
    st.integers(0, 20_000),
    st.integers(0, 500),
    st.integers(0, 2_100),
    st.booleans(),
)
@example([1, 1_000], 1_000, 0, 2_100, True)
@example([1, 1_200], 1_000, 0, 2_101, True)
@example([1, 5_000], 1_000, 0, 0, False)
def test_whoever_was_offline_is_pushed_and_nobody_who_was_there(
    changes: list[int], wrote: int, notify_late: int, close_late: int, six_fields: bool
) -> None:
    """A session opens and closes at `changes` in turn; a message is written at `wrote`, and looked at 5 s later."""
    known: Connections = {0: closed(-HOUR) if six_fields else Connection(False, -HOUR, -HOUR)}
    came_at = wrote + notify_late
    now = came_at + 5_000
    session = 0
    times = sorted(changes)
    for index, at in enumerate(times):
        session += index % 2 == 0
        said_at = at if index % 2 == 0 else at + close_late
        if said_at <= now:
            opens = index % 2 == 0
            counts = (session, int(opens), int(opens)) if six_fields else ()
            known = presence.apply(known, Status("u", 0, opens, *counts), said_at)
    reason = left_out(known, None, policy=POLICY, came_at=came_at, now=now)
    there_when_written = sum(at <= wrote for at in times) % 2 == 1
    came_back = any(wrote < at <= now for at in times[::2])
    left_at = next((at for at in times[1::2] if at > wrote), None)
    if not there_when_written and not came_back:
        assert reason == "", "they have had no chance to see it"
    if there_when_written and (left_at is None or left_at + close_late > came_at + LATE):
        assert reason, "it came while they were there"

"""Whatever is posted: no 500, nothing kept of what is refused, and no good element lost among bad ones."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import events
from app.events import KINDS, NOTIFY, OFFLINE, STATUS
from tests.web.bridge import Bridge

on_one_store = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**53 + 1, 2**63, 2**64, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["", "a-b", "u-0-1", "-0-1-1-1-1", "u--1-1-1-1-1", "u-0-2-1-1-1", "\ud800", "\x00", "x" * 20_000])
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
FIELDS = [
    "header",
    "setting",
    "expire",
    "message_id",
    "client_msg_no",
    "message_seq",
    "from_uid",
    "channel_id",
    "channel_type",
    "timestamp",
    "payload",
    "to_uids",
    "compress",
    "compress_to_uids",
]
UIDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
JUNK = st.lists(DOCUMENTS, max_size=4)
connections = itertools.count(1)


def encoded(document: Any) -> bytes:
    """As JSON, lone surrogates included."""
    return json.dumps(document).encode()


def answered(bridge: Bridge, event: str, body: bytes) -> None:
    """It is taken whole or refused whole, and what is kept can be worked on."""
    before = sum(bridge.depth().values())
    answer = bridge.post(event, body)
    if answer.status_code == 200:
        assert answer.data == b""
    else:
        assert answer.status_code == 400
        assert answer.get_json()["error"]["message"].partition(": found ")[0] in {
            "body",
            "message",
            "header.sync_once",
            *FIELDS,
        }
        assert sum(bridge.depth().values()) == before
    assert all(events.offline(event.body) for event in bridge.kept())


@on_one_store
@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_any_bytes(bridge: Bridge, event: str, body: bytes) -> None:
    answered(bridge, event, body)


@on_one_store
@given(st.sampled_from(sorted(KINDS)), DOCUMENTS | st.lists(st.sampled_from([math.nan, math.inf, -math.inf])))
def test_any_document(bridge: Bridge, event: str, document: Any) -> None:
    answered(bridge, event, encoded(document))


@on_one_store
@given(st.dictionaries(st.sampled_from(FIELDS), DOCUMENTS, max_size=5))
def test_any_value_of_any_field(bridge: Bridge, fields: dict[str, Any]) -> None:
    document = {"message_id": 2**60 + 1, "to_uids": ["u"], **fields}
    answered(bridge, OFFLINE, encoded(document))
    answered(bridge, NOTIFY, encoded([document]))


@on_one_store
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_as_a_compressed_list(bridge: Bridge, data: bytes, packed: bool) -> None:
    listed = base64.b64encode(gzip.compress(data) if packed else data).decode()
    body = encoded({"message_id": 2**60 + 1, "compress": "gzip", "compress_to_uids": listed})
    assert bridge.post(OFFLINE, body).status_code == 200
    answered(bridge, OFFLINE, body)


@on_one_store
@given(JUNK, JUNK, UIDS)
def test_a_good_status_is_applied_whatever_is_around_it(
    bridge: Bridge, before: list[Any], after: list[Any], uid: str
) -> None:
    """The uid is marked, so that no other element speaks of the same user."""
    uid, connection = f"{uid}!good!", next(connections)
    assert bridge.post(STATUS, encoded([*before, f"{uid}-0-1-{connection}-1-1", *after])).status_code == 200
    bridge.take()
    assert bridge.online(uid) == {uid}
    assert bridge.post(STATUS, encoded([*after, f"{uid}-0-0-{connection}-0-0", *before])).status_code == 200
    bridge.take()
    assert bridge.online(uid) == set()
    assert bridge.depth().get("status", 0) == 0


@on_one_store
@given(JUNK, JUNK, UIDS)
def test_a_good_recipient_is_kept_whatever_is_around_him(
    bridge: Bridge, before: list[Any], after: list[Any], uid: str
) -> None:
    bridge.kept()
    body = encoded({"message_id": 2**60 + 1, "to_uids": [*before, uid, *after]})
    assert bridge.post(OFFLINE, body).status_code == 200
    with bridge.database.read() as connection:
        kept = [row[0] for row in connection.exec_driver_sql("SELECT body FROM events")]
    assert body in kept
    assert uid in events.offline(body)[1].uids


@on_one_store
@given(JUNK, JUNK)
def test_a_good_notification_is_no_reason_to_refuse(bridge: Bridge, before: list[Any], after: list[Any]) -> None:
    assert bridge.post(NOTIFY, encoded([*before, {"message_id": 1}, *after])).status_code == 200

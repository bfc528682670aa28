from __future__ import annotations

import base64
import gzip
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import events
from app.events import BadEvent
from app.model import Content, Message, Recipients, Status

BIG = 2069123456789012345
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
UIDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
FIELDS = {
    "message_id": [None, True, 0, -1, 1.5, 1e3, 2**63, 10**400, "1", [], {}],
    "message_seq": [True, -1, 0.5, 2**64, "1", [], {}],
    "client_msg_no": [False, 1, 0.5, [], {}, "a" * 16_385, "\ud800"],
    "from_uid": [False, 1, 0.5, [], {}, "a" * 16_385, "\ud800"],
    "channel_id": [False, 1, 0.5, [], {}, "a" * 16_385, "\udfff"],
    "channel_type": [True, -1, 256, 1.0, "1", [], {}],
    "timestamp": [True, -1, 2**60, 1.0, "1", [], {}],
    "expire": [True, -1, 2**60, 1.0, "1", [], {}],
    "setting": [True, -1, 256, 1.0, "1", [], {}],
    "header": [False, 0, 1.5, "", "x", [], [1]],
    "payload": [False, 0, 1.5, [], {}, "a", "YQ", "YQ==\n", "é", "YQ==x", "=", "\ud800"],
    "to_uids": [False, 0, 1.5, "", "u1", {}],
    "compress": [False, 0, 1.5, [], {}, "zstd", "GZIP"],
}


def body(**fields: Any) -> bytes:
    return json.dumps({"message_id": BIG, **fields}).encode()


def packed(data: bytes) -> dict[str, str]:
    return {"compress": "gzip", "compress_to_uids": base64.b64encode(data).decode()}


def listed(uids: list[Any]) -> bytes:
    return gzip.compress(json.dumps(uids).encode(), mtime=0)


def raw(text: str) -> bytes:
    return gzip.compress(text.encode(), mtime=0)


def test_a_whole_message() -> None:
    document = (
        '{"header":{"no_persist":0,"red_dot":1,"sync_once":1},"setting":32,"expire":60,"message_id":2069123456789012345,'
        '"message_idstr":"2069123456789012345","client_msg_no":"c-1","message_seq":42,"from_uid":"\\u003cu1\\u003e",'
        '"channel_id":"g","channel_type":2,"topic":"t","timestamp":1785398400,"payload":"aGk=","to_uids":["u2"],'
        '"source_id":1}'
    )
    message, recipients = events.offline(document.encode())
    assert message == Message(
        message_id=BIG,
        message_seq=42,
        client_msg_no="c-1",
        from_uid="<u1>",
        channel_id="g",
        channel_type=2,
        timestamp=1785398400,
        expire=60,
        setting=32,
        sync_once=True,
        payload=b"hi",
    )
    assert (recipients.uids, recipients.bad, recipients.lost) == (("u2",), 0, "")


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FIELDS for value in FIELDS[name]])
def test_a_wrong_field_is_named_and_nothing_of_the_body_is_kept(name: str, value: Any) -> None:
    with pytest.raises(BadEvent, match=rf"^{name}: found .+; allowed: ") as offline:
        events.offline(body(**{name: value}))
    with pytest.raises(BadEvent) as weight:
        events.measure(events.OFFLINE, body(**{name: value}))
    assert str(weight.value) == str(offline.value)


@pytest.mark.parametrize("value", [True, -1, 2, 0.5, "1", []])
def test_a_wrong_header_field_is_named(value: Any) -> None:
    with pytest.raises(BadEvent, match=r"^header\.sync_once: "):
        events.offline(body(header={"sync_once": value}))


@pytest.mark.parametrize("value", [0, True, 1.5, "a", [], {}])
def test_a_wrong_compressed_list_is_named(value: Any) -> None:
    with pytest.raises(BadEvent, match=r"^compress_to_uids: "):
        events.measure(events.OFFLINE, body(compress="gzip", compress_to_uids=value))


@pytest.mark.parametrize("value", [0, True, 1.5, "a", [1], {}])
def test_a_list_without_compress_is_not_looked_at(value: Any) -> None:
    given = body(compress_to_uids=value, to_uids=["u"])
    assert events.measure(events.OFFLINE, given).weight == 1
    assert events.offline(given)[1].uids == ("u",)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"message_id"}))
def test_null_is_as_good_as_absent(name: str) -> None:
    assert events.offline(body(**{name: None})) == events.offline(body())


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{",
        b"\xff\xfe",
        b'{"message_id":1}x',
        b'{"message_id":1,"x":NaN}',
        b'{"message_id":1,"x":-Infinity}',
        b'{"message_id":1,"from_uid":"\xff"}',
        b'{"message_id":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[]",
        b"null",
        b"1",
        b'"x"',
    ],
    ids=range(13),
)
def test_what_is_no_object_is_refused(document: bytes) -> None:
    for call in (events.offline, lambda b: events.measure(events.OFFLINE, b)):
        with pytest.raises(BadEvent, match=r"^body: found .+; allowed: "):
            call(document)


@pytest.mark.parametrize("kind", [events.NOTIFY, events.STATUS])
@pytest.mark.parametrize("document", [b"", b"{}", b"null", b"[", b"[NaN]", b"\xff", b'"a-0-1"'])
def test_what_is_no_array_is_refused(kind: str, document: bytes) -> None:
    with pytest.raises(BadEvent, match=r"^body: found .+; allowed: "):
        events.measure(kind, document)


@pytest.mark.parametrize(
    ("document", "key"),
    [
        (b'{"message_id":1,"message_id":2}', "'message_id'"),
        (b'{"message_id":1,"x":{},"x":[]}', "'x'"),
        (b'{"message_id":1,"x":9,"\\u0078":1e9}', "'x'"),
        (b'{"message_id":1,"":9,"":9}', "''"),
        (b'{"message_id":1,"\\ud800\\n":1,"\\ud800\\n":1}', r"'\ud800\n'"),
        (b'{"message_id":1,"' + b"k" * 99 + b'":1,"' + b"k" * 99 + b'":1}', f"'{'k' * 64}'"),
    ],
    ids=range(6),
)
def test_a_key_given_twice_is_named(document: bytes, key: str) -> None:
    with pytest.raises(BadEvent) as caught:
        events.measure(events.OFFLINE, document)
    assert str(caught.value) == f"body: found the key {key} twice; allowed: once"
    assert events.notify(b"[" + document + b',{"message_id":3}]') == ([Message(message_id=3)], 1)


def test_a_key_given_twice_further_in_is_nobodys_business() -> None:
    inside = b'{"message_id":1,"x":{"a":1,"a":2},"y":[{"b":1,"b":2}]}'
    assert events.measure(events.OFFLINE, inside).weight == 0
    assert events.notify(b"[" + inside + b"]") == ([Message(message_id=1)], 0)


def test_the_dispatcher_takes_what_the_web_has_checked() -> None:
    assert events.offline(b'{"message_id":1,"message_id":2}')[0].message_id == 2


def test_recipients_once_each_in_their_order_from_both_lists() -> None:
    given = body(to_uids=["b", "a", "b", 1, "", None, "x" * 16_385, "\ud800"], **packed(listed(["c", "a", 2])))
    recipients = events.offline(given)[1]
    assert recipients.uids == ("b", "a", "c")
    assert (recipients.bad, recipients.lost) == (6, "")


@pytest.mark.parametrize("fields", [{}, {"to_uids": None}, {"to_uids": []}, {"to_uids": [], "compress": ""}])
def test_nobody_to_push_to_is_no_error(fields: dict[str, Any]) -> None:
    recipients = events.offline(body(**fields))[1]
    assert (recipients.uids, recipients.bad, recipients.lost) == ((), 0, "")


@given(st.lists(UIDS, max_size=30))
def test_a_gzip_list_comes_back_whole(uids: list[str]) -> None:
    for more in ({}, {"to_uids": []}):
        recipients = events.offline(body(**more, **packed(listed(uids))))[1]
        assert recipients.uids == tuple(dict.fromkeys(uids))
        assert recipients.lost == ""


@given(st.lists(UIDS, min_size=1, max_size=30, unique=True), st.data())
def test_a_list_cut_short_is_used_as_far_as_it_is_complete(uids: list[str], data: st.DataObject) -> None:
    text = json.dumps(uids)
    end = data.draw(st.integers(0, len(text) - 1))
    recipients = events.offline(body(**packed(raw(text[:end]))))[1]
    complete = [n for n in range(len(uids) + 1) if len(json.dumps(uids[:n])) - 1 <= end]
    assert recipients.uids == tuple(uids[: complete[-1] if complete else 0])
    assert recipients.lost == "no JSON array"


def test_a_cut_stream_is_used_and_reported() -> None:
    uids = [f"user-{n * 7919 % 100_003}" for n in range(2_000)]
    whole = listed(uids)
    recipients = events.offline(body(**packed(whole[: len(whole) // 2])))[1]
    assert recipients.lost == "cut short"
    assert len(recipients.uids) > 100
    assert recipients.uids == tuple(uids[: len(recipients.uids)])


def test_a_cut_uid_full_of_quotes_costs_only_itself() -> None:
    text = '["a","b\\\\","' + '\\"' * 50
    assert events.offline(body(**packed(raw(text))))[1].uids == ("a", "b\\")


def test_the_bare_header_gives_nobody_and_is_reported() -> None:
    header = bytes([31, 139, 8, 0, 0, 0, 0, 0, 0, 255])
    recipients = events.offline(body(to_uids=[], **packed(header)))[1]
    assert (recipients.uids, recipients.lost) == ((), "cut short")


def test_a_damaged_list_is_used_up_to_the_damage() -> None:
    uids = [f"user-{n * 7919 % 100_003}" for n in range(5_000)]
    whole = bytearray(listed(uids))
    whole[-5_000:] = b"\xff" * 5_000
    recipients = events.offline(body(**packed(bytes(whole))))[1]
    assert recipients.lost == "damaged"
    assert len(recipients.uids) > 100
    assert set(recipients.uids[:100]) == set(uids[:100])
    assert events.offline(body(to_uids=["u"], **packed(b"not gzip")))[1].uids == ("u",)


def test_a_bomb_is_bounded() -> None:
    bomb = gzip.compress(b'["first",' + b'"x",' * (12 << 20) + b'"last"]', 1)
    recipients = events.offline(body(**packed(bomb)))[1]
    assert recipients.lost == "longer than the limit"
    assert recipients.uids == ("first", "x")


@pytest.mark.parametrize("text", ["", "{}", "null", "1", '"a"', "[", "]", "[1,"])
def test_a_list_that_is_none(text: str) -> None:
    recipients = events.offline(body(**packed(raw(text))))[1]
    assert (recipients.uids, recipients.lost) == ((), "no JSON array")


def test_a_compressed_list_of_no_bytes_is_lost() -> None:
    assert events.offline(body(**packed(b"")))[1].lost == "cut short"
    assert events.offline(body(compress="gzip"))[1].lost == "cut short"


def test_half_a_surrogate_pair_in_a_compressed_list_costs_only_itself() -> None:
    recipients = events.offline(body(**packed(raw('["a","\\ud800","b"]'))))[1]
    assert (recipients.uids, recipients.bad, recipients.lost) == (("a", "b"), 1, "")


@pytest.mark.parametrize("number", ["9" * 100, "-" + "9" * 100, "9" * 5_000, "1e999", "-1e999"])
def test_a_huge_number_costs_only_its_element(number: str) -> None:
    text = f'["u-1-0-1-9-1-1", {number}]'.encode()
    assert events.statuses(text) == ([Status("u-1", 0, True, 9, 1, 1)], 1)
    messages, bad = events.notify(f'[{{"message_id": {number}}}, {{"message_id": {BIG}}}]'.encode())
    assert (messages, bad) == ([Message(message_id=BIG)], 1)
    with pytest.raises(BadEvent, match=r"^message_id: found "):
        events.offline(f'{{"message_id": {number}}}'.encode())


@given(st.binary(max_size=300))
def test_any_payload_arrives_byte_for_byte(payload: bytes) -> None:
    message = events.offline(body(payload=base64.b64encode(payload).decode()))[0]
    assert message.payload == payload
    assert len(events.content(payload).text) <= events.MAX_TEXT


@given(st.binary(max_size=200) | JUNK.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_parsed_or_refused(document: bytes) -> None:
    for call in (
        events.offline,
        events.notify,
        events.statuses,
        *(lambda b, kind=kind: events.measure(kind, b) for kind in events.KINDS),
    ):
        with suppress(BadEvent):
            assert call(document) is not None


@given(st.lists(JUNK, max_size=5), st.lists(JUNK, max_size=5))
def test_a_good_message_is_never_lost_among_junk(before: list[Any], after: list[Any]) -> None:
    messages, bad = events.notify(json.dumps([*before, {"message_id": BIG}, *after]).encode())
    assert Message(message_id=BIG) in messages
    assert len(messages) + bad == len(before) + len(after) + 1


@given(st.lists(JUNK, max_size=5), st.lists(JUNK, max_size=5))
def test_a_good_status_is_never_lost_among_junk(before: list[Any], after: list[Any]) -> None:
    statuses, bad = events.statuses(json.dumps([*before, "u-1-0-1-9-1-1", *after]).encode())
    assert Status("u-1", 0, True, 9, 1, 1) in statuses
    assert len(statuses) + bad == len(before) + len(after) + 1


COUNTS = st.integers(0, 10**18 - 1)


@given(UIDS, st.integers(0, 255), st.booleans(), COUNTS, COUNTS, COUNTS)
def test_six_fields_after_any_uid(uid: str, flag: int, online: bool, connection: int, devices: int, more: int) -> None:
    total = max(devices, more)
    element = f"{uid}-{flag}-{online:d}-{connection}-{devices}-{total}"
    assert events.statuses(json.dumps([element]).encode()) == (
        [Status(uid, flag, online, connection, devices, total)],
        0,
    )


@given(st.text(st.characters(exclude_categories=["Cs", "Nd"]), min_size=1), st.integers(0, 255), st.booleans())
def test_three_fields_after_a_uid_that_does_not_look_like_fields(uid: str, flag: int, online: bool) -> None:
    assert events.statuses(json.dumps([f"{uid}-{flag}-{online:d}"]).encode()) == ([Status(uid, flag, online)], 0)


@pytest.mark.parametrize(
    ("element", "status"),
    [
        ("u-1-1-1-1-1-0-1-25-1-1", Status("u-1-1-1-1-1", 0, True, 25, 1, 1)),
        ("a--0-0-7-0-0", Status("a-", 0, False, 7, 0, 0)),
        ("a b/'\"👍-99-1-7-1-2", Status("a b/'\"👍", 99, True, 7, 1, 2)),
        ("用户-2-1", Status("用户", 2, True)),
        ("a-b-c-1-0", Status("a-b-c", 1, False)),
        ("x" * 5_000 + "-0-1-1-1-1", Status("x" * 5_000, 0, True, 1, 1, 1)),
    ],
)
def test_statuses_as_servers_send_them(element: str, status: Status) -> None:
    assert events.statuses(json.dumps([element]).encode()) == ([status], 0)


@pytest.mark.parametrize(
    "element",
    ["", "u", "u-0", "u-0-2", "u-256-1", "-0-1", "u-0-x", "u-0-1.0", "u-²-1", "u-0-١", "\ud800-0-1", 1, None],
)
def test_elements_that_are_no_status_are_counted(element: Any) -> None:
    statuses, bad = events.statuses(json.dumps(["a-0-1", element, "b-0-0"]).encode())
    assert [status.uid for status in statuses] == ["a", "b"]
    assert bad == 1


@pytest.mark.parametrize(
    ("payload", "content"),
    [
        (b'{"type":1,"content":"hi"}', Content(1, "hi")),
        (b'{"type":"14","content":" hi\\n"}', Content(14, "hi")),
        (b'{"type":true,"content":7}', Content()),
        (b'{"type":-1,"content":"x"}', Content(0, "x")),
        (b'{"type":1.0,"content":"x"}', Content(0, "x")),
        (b'{"type":99999999999,"content":["x"]}', Content()),
        (b'{"type":1,"content":"hi\\ud83d"}', Content(1, "hi")),
        (b'{"type":1,"content":"a\\u0000b\\u001b[31m"}', Content(1, "ab[31m")),
        (b'"quoted"', Content(0, "quoted")),
        (b"plain text", Content(0, "plain text")),
        ("中文 👍".encode(), Content(0, "中文 👍")),
        (b"line\r\nline", Content(0, "line\nline")),
        (b"", Content()),
        (b"\xff\x00\x01", Content()),
        (b"\x08\x01\x12\x02hi", Content()),
        (b"[1,2]", Content()),
        (b"null", Content()),
    ],
)
def test_what_a_payload_says(payload: bytes, content: Content) -> None:
    assert events.content(payload) == content


def test_the_text_of_a_payload_is_bounded() -> None:
    text = "ä" * 600_000
    assert events.content(json.dumps({"type": 1, "content": text}).encode()).text == "ä" * events.MAX_TEXT
    assert events.content(text.encode()).text == "ä" * events.MAX_TEXT


@pytest.mark.parametrize(
    ("channel_type", "payload", "urgent"),
    [
        (1, {"type": 1}, True),
        (2, {"type": 1}, False),
        (2, {"type": 1, "mention": {"uids": ["bob"]}}, True),
        (2, {"type": 1, "mention": {"all": 1}}, True),
    ],
)
def test_what_somebody_may_be_waited_for_in_is_urgent(channel_type: int, payload: Any, urgent: bool) -> None:
    given = body(channel_type=channel_type, payload=base64.b64encode(json.dumps(payload).encode()).decode())
    assert events.measure(events.OFFLINE, given).urgent is urgent


def test_a_conversation_is_told_from_others() -> None:
    def channel(**fields: Any) -> int:
        return events.measure(events.OFFLINE, body(**fields)).channel

    group = channel(channel_type=2, channel_id="g", from_uid="ann")
    assert group == channel(channel_type=2, channel_id="g", from_uid="bob")
    assert group != channel(channel_type=4, channel_id="g", from_uid="ann")
    person = channel(channel_type=1, channel_id="bob", from_uid="ann")
    assert person == channel(channel_type=1, channel_id="ann@bob", from_uid="ann"), "both lines name it differently"
    assert person != channel(channel_type=1, channel_id="bob", from_uid="cid")


@pytest.mark.parametrize(
    ("mention", "uids", "everybody"),
    [
        ({"uids": ["bob", "cid"]}, {"bob", "cid"}, False),
        ({"uids": ["bob", 7, None, "", {}]}, {"bob"}, False),
        ({"all": 1}, set(), True),
        ({"all": 0, "uids": []}, set(), False),
        ({"all": [], "uids": "bob"}, set(), False),
        ("bob", set(), False),
        (None, set(), False),
    ],
)
def test_who_is_called_by_name(mention: Any, uids: set[str], everybody: bool) -> None:
    content = events.content(json.dumps({"type": 1, "content": "x", "mention": mention}).encode())
    assert (content.mentions, content.mentions_all) == (uids, everybody)


def test_weight_counts_elements() -> None:
    assert events.measure(events.STATUS, b'["a-0-1","junk",3]').weight == 3
    assert events.measure(events.NOTIFY, b"[]").weight == 0
    assert events.measure(events.OFFLINE, body(to_uids=["a", "b"])).weight == 2
    assert events.measure(events.OFFLINE, body(**packed(listed([f"user{n}" for n in range(1_000)])))).weight > 100


@given(
    st.builds(
        Message,
        message_id=st.integers(1, 2**63 - 1),
        message_seq=st.integers(0, 2**64 - 1),
        client_msg_no=st.text(st.characters(codec="utf-8"), max_size=9),
        from_uid=st.text(st.characters(codec="utf-8"), max_size=9),
        channel_id=st.text(st.characters(codec="utf-8"), max_size=9),
        channel_type=st.integers(0, 255),
        timestamp=st.integers(0, 2**53),
        expire=st.integers(0, 2**53),
        setting=st.integers(0, 255),
        sync_once=st.booleans(),
        payload=st.binary(max_size=30),
    ),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=9),
)
def test_a_body_that_names_somebody_says_the_same_as_the_message(message: Message, uid: str) -> None:
    assert events.offline(events.naming(message, uid)) == (message, Recipients((uid,)))

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app import words
from app.config import payload_types
from app.events import content
from app.model import Content, Message, Names
from app.render import MAX_ID_BYTES, MAX_TITLE, Style, choose_locale, notice, reworded
from providers.kit.base import Notice

STYLE = Style(types=payload_types(words.TYPES, "words"), templates=words.TEMPLATES)
HELLO = Content(1, "hello")


def message(**fields: Any) -> Message:
    return Message(**{"message_id": 2**60 + 1, "from_uid": "alice", "channel_id": "bob", **fields})


def rendered(
    said: Content = HELLO,
    names: Names | None = None,
    locale: str = "",
    show_content: bool | None = None,
    style: Style = STYLE,
    **fields: Any,
) -> Notice:
    return notice(message(**fields), said, names or Names(), locale=locale, show_content=show_content, style=style)


def words_of(found: Notice) -> tuple[str, str]:
    return found.title, found.body


GROUP = {"channel_type": 2, "channel_id": "g1"}


@pytest.mark.parametrize(
    ("fields", "names", "title", "body"),
    [
        ({}, Names(), "alice", "hello"),
        ({}, Names("Alice"), "Alice", "hello"),
        ({}, Names("Alice", "Ignored"), "Alice", "hello"),
        (GROUP, Names(), "g1", "alice: hello"),
        (GROUP, Names("Alice", "Friends"), "Friends", "Alice: hello"),
        (GROUP, Names("", "Friends"), "Friends", "alice: hello"),
        ({**GROUP, "channel_id": ""}, Names("Alice"), "Alice", "Alice: hello"),
        ({"from_uid": "____system"}, Names(), "System", "hello"),
        ({"from_uid": ""}, Names(), "System", "hello"),
        ({"from_uid": "____system"}, Names("Support"), "Support", "hello"),
        ({}, Names("Al\n ice\t\r"), "Al ice", "hello"),
    ],
)
def test_under_which_names(fields: dict[str, Any], names: Names, title: str, body: str) -> None:
    assert words_of(rendered(names=names, **fields)) == (title, body)


@pytest.mark.parametrize(
    ("said", "english", "chinese"),
    [
        (Content(1, "hi"), "hi", "hi"),
        (Content(0, "hi"), "hi", "hi"),
        (Content(1, ""), "[Message]", "[消息]"),
        (Content(2, "ignored"), "[Photo]", "[图片]"),
        (Content(9989), "[Call]", "[通话]"),
        (Content(12345, "secret of an application"), "[Message]", "[消息]"),
    ],
)
def test_the_text_by_type_and_locale(said: Content, english: str, chinese: str) -> None:
    assert rendered(said).body == english
    assert rendered(said, locale="zh-CN").body == chinese


@pytest.mark.parametrize(
    ("wanted", "locale"),
    [
        ("", "en"),
        ("zh", "zh"),
        ("zh-CN", "zh"),
        ("zh_Hans_CN", "zh"),
        ("ZH-hant", "zh"),
        ("EN-us", "en"),
        ("fr-FR", "en"),
        ("z", "en"),
        ("-", "en"),
        ("zhx", "en"),
    ],
)
def test_the_best_locale_there_is(wanted: str, locale: str) -> None:
    assert choose_locale(wanted, STYLE) == locale


def test_templates_may_be_named_either_way() -> None:
    templates = {**words.TEMPLATES, "pt_BR": {**words.TEMPLATES["en"], "image": "[Foto]"}}
    style = Style(types=STYLE.types, templates=templates)
    assert rendered(Content(2), locale="pt-br", style=style).body == "[Foto]"


def test_doubled_braces_in_templates_are_braces() -> None:
    changed = {"image": "{{}}", "text": "{{{content}}}", "hidden": "}}", "system": "{{", "group": "{{{sender}}} {text}"}
    style = Style(types=STYLE.types, templates={"en": {**words.TEMPLATES["en"], **changed}})
    assert rendered(Content(2), style=style).body == "{}"
    assert rendered(Content(1, "{x}"), style=style).body == "{{x}}"
    assert rendered(setting=0x20, style=style).body == "}"
    assert rendered(from_uid="____system", style=style).title == "{"
    assert rendered(Content(2), style=style, **GROUP).body == "{alice} {}"


def test_the_longest_locale_wins() -> None:
    templates = {**words.TEMPLATES, "zh-TW": {**words.TEMPLATES["zh"], "image": "[圖片]"}}
    style = Style(types=STYLE.types, templates=templates, locale="zh")
    assert rendered(Content(2), locale="zh-Tw", style=style).body == "[圖片]"
    assert rendered(Content(2), locale="fr", style=style).body == "[图片]"


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        (True, None, True),
        (True, True, True),
        (True, False, False),
        (False, None, False),
        (False, True, False),
        (False, False, False),
    ],
)
@pytest.mark.parametrize("fields", [{}, GROUP])
def test_content_is_shown_where_both_sides_want_it(
    ours: bool, theirs: bool | None, shown: bool, fields: dict[str, Any]
) -> None:
    style = Style(types=STYLE.types, templates=STYLE.templates, show_content=ours)
    body = rendered(show_content=theirs, style=style, **fields).body
    assert ("hello" in body) == shown
    assert shown or body == "New message"


def test_no_text_of_an_encrypted_message_is_shown() -> None:
    assert rendered(setting=0x20).body == "New message"
    assert rendered(setting=0xDF).body == "hello"
    assert rendered(setting=0x20, **GROUP).body == "alice: New message"


BRACES = "{content} {0} {sender.x} {text!r} }{ {{}} %s"


def test_braces_are_only_text() -> None:
    assert rendered(Content(1, BRACES)).body == BRACES
    assert words_of(rendered(Content(1, BRACES), Names(BRACES, BRACES), **GROUP)) == (BRACES, f"{BRACES}: {BRACES}")


@given(st.text(), st.text(), st.text(), st.binary())
def test_any_names_and_payload_can_be_rendered(sender: str, channel: str, locale: str, payload: bytes) -> None:
    for fields in ({}, GROUP):
        found = rendered(content(payload), Names(sender, channel), locale, **fields)
        assert len(found.title) <= MAX_TITLE
        assert found.body


def test_a_long_title_is_cut() -> None:
    title = rendered(names=Names("x" * 1_000)).title
    assert len(title) == MAX_TITLE
    assert title.startswith("x" * (MAX_TITLE - 1))
    assert len(reworded(rendered(), "x" * 1_000, "b").title) == MAX_TITLE


def test_the_data_is_what_the_interface_promises() -> None:
    found = rendered(message_seq=42, client_msg_no="c-1", timestamp=1785398400, **GROUP)
    assert found.data == {
        "message_id": str(2**60 + 1),
        "message_seq": 42,
        "client_msg_no": "c-1",
        "channel_id": "g1",
        "channel_type": 2,
        "from_uid": "alice",
        "timestamp": 1785398400,
        "type": 1,
    }
    assert (found.message_id, found.thread) == (str(2**60 + 1), "2:g1")


@pytest.mark.parametrize("channel_id", ["bob", "alice@bob"])
def test_a_person_is_the_peer_on_both_lines(channel_id: str) -> None:
    found = rendered(channel_id=channel_id)
    assert (found.data["channel_id"], found.data["channel_type"], found.thread) == ("alice", 1, "1:alice")


@pytest.mark.parametrize("long", ["x" * (MAX_ID_BYTES + 1), "长" * 200, "\x01" * 67])
def test_long_ids_are_left_out(long: str) -> None:
    found = rendered(from_uid=long, client_msg_no=long, channel_type=2, channel_id=long)
    assert found.data.keys() == {"message_id", "message_seq", "channel_type", "timestamp", "type"}
    other = rendered(channel_type=2, channel_id=long + "y")
    assert len(found.thread) == len("2:") + 64
    assert found.thread != other.thread


@pytest.mark.parametrize("longest", ["x" * MAX_ID_BYTES, "ä" * (MAX_ID_BYTES // 2)])
def test_the_longest_ids_stay(longest: str) -> None:
    found = rendered(from_uid=longest)
    assert found.data["from_uid"] == found.data["channel_id"] == longest
    assert found.thread == f"1:{longest}"


@pytest.mark.parametrize(("expire", "expires_at"), [(0, None), (60, 1060)])
def test_when_nobody_wants_it_any_more(expire: int, expires_at: int | None) -> None:
    assert rendered(timestamp=1000, expire=expire).expires_at == expires_at


def test_types_that_never_ring() -> None:
    assert STYLE.skip_types == {97, 98, 99, 2000, *range(1000, 1023)}


def test_neither_title_nor_body_is_in_the_repr() -> None:
    shown = repr(rendered(names=Names("Alice")))
    assert "hello" not in shown
    assert "lice" not in shown


def test_the_sound_is_the_configured_one() -> None:
    assert rendered(style=replace(STYLE, sound="ping.caf")).sound == "ping.caf"

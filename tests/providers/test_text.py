from __future__ import annotations

import unicodedata
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.kit.text import ELLIPSIS, clean, fit, push_id

WHOLE = {
    "combining": "e\u0301",
    "two marks": "a\u0308\u0301",
    "family": "👨‍👩‍👧‍👦",
    "skin": "👍🏽",
    "variation": "❤️",
    "keycap": "1️⃣",
    "flag": "🇨🇳",
    "tagged flag": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "jamo": "\u1112\u1161\u11ab",
    "syllable and tail": "\uac00\u11a8",
    "thai": "กำ"[:1] + "\u0e31",
    "devanagari": "क्ष",
    "surrogates": "\ud83d\ude00",
    "line": "\r\n",
}


def size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_one_to_the_reader_is_never_split(kind: str) -> None:
    whole = WHOLE[kind]
    text = whole * 3
    allowed = {whole * count + ELLIPSIS for count in range(3)} | {text, ""}
    for limit in range(size(text) + 1):
        assert fit(text, size, limit) in allowed


@pytest.mark.parametrize("kind", WHOLE)
def test_room_for_one_more_is_used(kind: str) -> None:
    whole = WHOLE[kind]
    text = whole * 4
    for count in range(3):
        assert fit(text, size, size(whole * count + ELLIPSIS)) == whole * count + ELLIPSIS


def test_three_flags_are_cut_between_flags() -> None:
    assert fit("🇨🇳🇩🇪🇫🇷", len, 6) == "🇨🇳🇩🇪🇫🇷"
    assert fit("🇨🇳🇩🇪🇫🇷", len, 5) == "🇨🇳🇩🇪…"
    assert fit("🇨🇳🇩🇪🇫🇷", len, 4) == "🇨🇳…"


def test_letters_beside_marks_may_be_cut() -> None:
    assert fit("한국어", len, 2) == "한…"
    assert fit("你好世界", len, 3) == "你好…"
    assert fit("👍👎👍👎", len, 3) == "👍👎…"


def test_the_edges() -> None:
    assert fit("", len, 0) == ""
    assert fit("ab", len, 2) == "ab"
    assert fit("ab", len, 1) == "…"
    assert fit("ab", len, 0) == ""


@given(st.text(), st.integers(0, 200))
def test_the_result_fits_and_is_a_prefix(text: str, limit: int) -> None:
    found = fit(text, size, limit)
    assert size(found) <= max(limit, 0)
    if size(text) <= limit:
        assert found == text
    elif limit >= size(ELLIPSIS):
        assert found.endswith(ELLIPSIS)
        assert text.startswith(found[:-1])


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Nd", "Po"]), min_size=1), st.integers(3, 200))
def test_of_plain_letters_none_is_wasted(text: str, limit: int) -> None:
    text = unicodedata.normalize("NFC", text).translate({0x0E33: None, 0x0EB3: None})
    found = fit(text, size, limit)
    if found != text:
        assert size(text[: len(found)] + ELLIPSIS) > limit


def test_size_is_asked_for_seldom() -> None:
    calls = []

    def counted(text: str) -> int:
        calls.append(text)
        return len(text)

    fit("x" * 1_000_000, counted, 1000)
    assert len(calls) <= 25


@given(st.text(alphabet=st.characters(), max_size=20) | st.text(alphabet="a\ud83d\ude00é", max_size=8))
def test_clean_text_can_be_written(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert clean(cleaned) == cleaned


def test_clean_joins_pairs_and_replaces_halves() -> None:
    assert clean("\ud83d\ude00") == "😀"
    assert clean("a\ud83db\ude00") == "a\ufffdb\ufffd"


@given(st.text(), st.text())
def test_push_ids_are_uuids_of_version_5(message_id: str, device: str) -> None:
    found = push_id(message_id, device)
    assert found == push_id(message_id, device)
    assert uuid.UUID(found).version == 5
    assert uuid.UUID(found).variant == uuid.RFC_4122
    assert found == str(uuid.UUID(found))


def test_push_ids_differ_by_message_and_by_device() -> None:
    assert len({push_id("1", "23"), push_id("12", "3"), push_id("1", "2"), push_id("2", "23")}) == 4


def test_push_ids_stay_what_they_were() -> None:
    """A changed id would name a push sent before an upgrade and its repeat after it differently."""
    namespace = uuid.UUID("5f3ac7f1-bb3e-4a6c-9c0e-6c6b7d1f0a42")
    assert push_id("17", "ann\0phone") == str(uuid.uuid5(namespace, "17\0ann\0phone"))

"""Text that fits a vendor's limit, and ids made from text."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable

ELLIPSIS = "…"

_ZWJ = "\u200d"
_PUSH_NAMESPACE = bytes.fromhex("5f3ac7f1bb3e4a6c9c0e6c6b7d1f0a42")
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def clean(text: str) -> str:
    """The text as it can be written in UTF-8: surrogate pairs joined, each lone surrogate replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def fit(text: str, size_of: Callable[[str], int], limit: int) -> str:
    """The text if it fits, or else its longest prefix with "…" after it that does; "" if not even "…" fits.

    size_of: the size of the whole message with this text in it; it must not shrink when the text grows.
    It is called about log2(len(text)) times. What a reader takes for one character is never split.
    """
    if size_of(text) <= limit:
        return text
    if size_of(ELLIPSIS) > limit:
        return ""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if size_of(text[:middle] + ELLIPSIS) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[: _boundary(text, low)] + ELLIPSIS


def push_id(message_id: str, device_key: str) -> str:
    """The lower-case UUIDv5 of one message on one device: the same at every attempt, never shared by two devices."""
    name = f"{message_id}\0{device_key}".encode("utf-8", "surrogatepass")
    digest = hashlib.sha1(_PUSH_NAMESPACE + name, usedforsecurity=False).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def _boundary(text: str, index: int) -> int:
    """The last place at or before `index` where the text may be cut."""
    while 0 < index < len(text) and _joined(text, index):
        index -= 1
    return index


def _joined(text: str, index: int) -> bool:
    """Whether the characters around `index` are one to the reader: the main rules of Unicode's UAX #29."""
    before, after = text[index - 1], text[index]
    if after < "\u0300":
        return before == "\r" and after == "\n"
    return (
        before == _ZWJ
        or _extends(after)
        or (_regional(after) and _regionals_before(text, index) % 2 == 1)
        or ("\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff")
        or (unicodedata.combining(before) == 9 and unicodedata.category(after) == "Lo")
        or _hangul(before, after)
    )


def _extends(char: str) -> bool:
    """Marks, joiners, variation selectors, skin tones and emoji tags belong to the character before them."""
    return (
        unicodedata.category(char) in ("Mn", "Me", "Mc")
        or char in "\u200c\u200d\uff9e\uff9f"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
        or "\U000e0020" <= char <= "\U000e007f"
    )


def _regional(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"


def _regionals_before(text: str, index: int) -> int:
    """How many regional indicators end at `index`: two make one flag."""
    start = index
    while start > 0 and _regional(text[start - 1]):
        start -= 1
    return index - start


def _hangul(before: str, after: str) -> bool:
    """Whether two Korean letters stand in one syllable block."""
    left, right = _jamo(before), _jamo(after)
    return (
        (left == "L" and right in ("L", "V", "LV", "LVT"))
        or (left in ("LV", "V") and right in ("V", "T"))
        or (left in ("LVT", "T") and right == "T")
    )


def _jamo(char: str) -> str:
    if "\uac00" <= char <= "\ud7a3":
        return "LV" if (ord(char) - 0xAC00) % 28 == 0 else "LVT"
    if "\u1100" <= char <= "\u115f" or "\ua960" <= char <= "\ua97c":
        return "L"
    if "\u1160" <= char <= "\u11a7" or "\ud7b0" <= char <= "\ud7c6":
        return "V"
    if "\u11a8" <= char <= "\u11ff" or "\ud7cb" <= char <= "\ud7fb":
        return "T"
    return ""

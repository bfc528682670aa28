"""Turns the raw body of a webhook call into model values, or raises BadEvent.

What arrives here and how it differs between WuKongIM's lines was measured against real servers of both.
"""

from __future__ import annotations

import json
import math
import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from typing import Any

import msgspec
from msgspec import Struct

from app.model import PERSON, Content, Message, Recipients, Status

OFFLINE = "msg.offline"
NOTIFY = "msg.notify"
STATUS = "user.onlinestatus"
KINDS = frozenset({OFFLINE, NOTIFY, STATUS})

MAX_UID = 16_384
"""Characters. Real servers were seen to pass uids of thousands."""
MAX_INFLATED = 32 << 20
"""Bytes of a recipient list after inflation: over a hundred thousand uids."""
MAX_TEXT = 4_096
"""Characters of a payload's text that are kept: no provider carries more."""

_decode = msgspec.json.Decoder().decode
_INT64 = 2**63 - 1


class BadEvent(Exception):
    """The body is not what the event calls for; the message names the field, what was found and what is allowed."""


class Measure(Struct, frozen=True):
    """What is known of a body as it comes in.

    weight: how many elements it holds. channel: Message.channel_key of its conversation, 0 where it is about none.
    urgent: somebody may be waited for in it: a conversation between two people, or somebody is called by name.
    """

    weight: int
    channel: int = 0
    urgent: bool = False


def measure(kind: str, body: bytes) -> Measure:
    """Measure a body, which is checked as far as the answer to the webhook depends on it."""
    if kind == OFFLINE:
        document = _object(body)
        message = _message(document)
        if repeat := repeated(written(body)):
            raise BadEvent(f"body: {repeat}")
        weight = len(_uid_list(document)) + len(_compressed(document) or b"") // 6
        # Whether it really calls somebody is seen when it is planned.
        return Measure(weight, message.channel_key, message.channel_type == PERSON or b'"mention"' in message.payload)
    return Measure(len(_array(body, kind)))


def offline(body: bytes) -> tuple[Message, Recipients]:
    """The message of `msg.offline` and its recipients, each once, in their order."""
    document = _object(body)
    message = _message(document)
    listed = _uid_list(document)
    inflated, lost = _inflate(_compressed(document))
    good = [uid for uid in (*listed, *inflated) if _is_uid(uid)]
    bad = len(listed) + len(inflated) - len(good)
    return message, Recipients(tuple(dict.fromkeys(good)), bad, lost)


def notify(body: bytes) -> tuple[list[Message], int]:
    """The messages of `msg.notify`, and how many elements were none."""
    messages = []
    elements = _array(body, NOTIFY)
    for element, as_written in zip(elements, written(body), strict=True):
        try:
            message = _message(element)
        except BadEvent:
            continue
        if not repeated(as_written):
            messages.append(message)
    return messages, len(elements) - len(messages)


def naming(message: Message, uid: str) -> bytes:
    """The body of an `msg.offline` that names this user alone."""
    return msgspec.json.encode(
        {
            "header": {"sync_once": int(message.sync_once)},
            "setting": message.setting,
            "expire": message.expire,
            "message_id": message.message_id,
            "message_seq": message.message_seq,
            "client_msg_no": message.client_msg_no,
            "from_uid": message.from_uid,
            "channel_id": message.channel_id,
            "channel_type": message.channel_type,
            "timestamp": message.timestamp,
            "payload": message.payload,
            "to_uids": [uid],
        }
    )


def statuses(body: bytes) -> tuple[list[Status], int]:
    """The statuses of `user.onlinestatus` in their order, and how many elements were none."""
    elements = _array(body, STATUS)
    parsed = [status for status in map(_status, elements) if status is not None]
    return parsed, len(elements) - len(parsed)


def content(payload: bytes) -> Content:
    """What a payload says, whatever bytes the sender's client chose."""
    try:
        document = _json(payload)
    except BadEvent:
        return Content(text=_readable(payload))
    if isinstance(document, str):
        return Content(text=_showable(document))
    if not isinstance(document, dict):
        return Content()
    kind = document.get("type")
    if isinstance(kind, str) and kind.isascii() and kind.isdigit() and len(kind) < 10:
        kind = int(kind)
    text = document.get("content")
    mention = document.get("mention")
    called = mention if isinstance(mention, dict) else {}
    uids = called.get("uids")
    return Content(
        type=kind if isinstance(kind, int) and _is_int(kind, 0, 2**31) else 0,
        text=_showable(text) if isinstance(text, str) else "",
        mentions=frozenset(filter(_is_uid, uids)) if isinstance(uids, list) else frozenset(),
        mentions_all=called.get("all") in (1, "1"),
    )


def written(body: bytes) -> Any:
    """A JSON document with every object as the list of its pairs, in which a key given twice still stands twice.

    Numbers are left as text, since only keys are looked at. Raises BadEvent.
    """
    try:
        return json.loads(body, object_pairs_hook=list, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise BadEvent(f"body: found no valid JSON ({_why(error)}); allowed: a JSON document") from None


def repeated(pairs: list[tuple[str, Any]]) -> str:
    """What is to be said of the first key that is given twice, "" where none is: readers differ in which one counts."""
    if len(dict(pairs)) == len(pairs):
        return ""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return f"found the key {key[:64]!a} twice; allowed: once"
        seen.add(key)
    return ""


def _json(body: bytes) -> Any:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = error
    try:
        # Half a surrogate pair or a huge number makes the whole document invalid to the fast decoder; here it spoils
        # one element.
        return json.loads(body, parse_constant=_refuse, parse_int=_whole)
    except (ValueError, RecursionError):
        raise BadEvent(f"body: found no valid JSON ({_why(fault)}); allowed: a JSON document") from None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _whole(digits: str) -> int | float:
    """Python refuses to read very long numbers, and nothing here takes one."""
    return int(digits) if len(digits) < 64 else math.inf


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _object(body: bytes) -> dict[str, Any]:
    document = _json(body)
    if not isinstance(document, dict):
        raise BadEvent(f"body: found {kind_of(document)}; allowed: one message object")
    return document


def _array(body: bytes, kind: str) -> list[Any]:
    document = _json(body)
    if not isinstance(document, list):
        of = "message objects" if kind == NOTIFY else "status strings"
        raise BadEvent(f"body: found {kind_of(document)}; allowed: an array of {of}")
    return document


def _message(document: Any) -> Message:
    if not isinstance(document, dict):
        raise BadEvent(f"message: found {kind_of(document)}; allowed: an object")
    header = document.get("header")
    if header is None:
        header = {}
    if not isinstance(header, dict):
        raise BadEvent(f"header: found {kind_of(header)}; allowed: an object")
    return Message(
        message_id=_int(document, "message_id", 1, required=True),
        message_seq=_int(document, "message_seq", 0, 2**64 - 1),
        client_msg_no=_text(document, "client_msg_no"),
        from_uid=_text(document, "from_uid"),
        channel_id=_text(document, "channel_id"),
        channel_type=_int(document, "channel_type", 0, 255, default=1),
        timestamp=_int(document, "timestamp", 0, 2**53),
        expire=_int(document, "expire", 0, 2**53),
        setting=_int(document, "setting", 0, 255),
        sync_once=_int(header, "sync_once", 0, 1, name="header.sync_once") == 1,
        payload=_base64(document, "payload"),
    )


def _int(
    document: dict[str, Any],
    key: str,
    least: int,
    most: int = _INT64,
    *,
    default: int = 0,
    required: bool = False,
    name: str = "",
) -> int:
    value = document.get(key)
    if value is None and not required:
        return default
    if not isinstance(value, int) or not _is_int(value, least, most):
        found = kind_of(value) if not isinstance(value, int) or isinstance(value, bool) else "a number out of range"
        raise BadEvent(f"{name or key}: found {found}; allowed: a whole number from {least} to {most}")
    return value


def _is_int(value: int, least: int, most: int) -> bool:
    return not isinstance(value, bool) and least <= value <= most


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadEvent(f"{key}: found {kind_of(value)}; allowed: a text")
    if len(value) > MAX_UID or not _is_unicode(value):
        raise BadEvent(f"{key}: found a text that is too long or no Unicode; allowed: up to {MAX_UID} characters")
    return value


def _base64(document: dict[str, Any], key: str) -> bytes:
    value = document.get(key)
    if value is None:
        return b""
    if isinstance(value, str):
        try:
            return a2b_base64(value, strict_mode=True)
        except (Base64Error, ValueError):
            value = None
    found = "a text that is no Base64" if value is None else kind_of(value)
    raise BadEvent(f"{key}: found {found}; allowed: standard Base64")


def _uid_list(document: dict[str, Any]) -> list[Any]:
    value = document.get("to_uids")
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadEvent(f"to_uids: found {kind_of(value)}; allowed: an array of uids")
    return value


def _compressed(document: dict[str, Any]) -> bytes | None:
    compress = document.get("compress")
    if compress is None or compress == "":
        return None
    if compress != "gzip":
        raise BadEvent(f"compress: found {kind_of(compress)}; allowed: gzip")
    return _base64(document, "compress_to_uids")


def _inflate(data: bytes | None) -> tuple[list[Any], str]:
    """The list inside, as far as it is complete, and why it is not whole ("" where it is)."""
    if data is None:
        return [], ""
    inflater = zlib.decompressobj(wbits=31)
    lost = ""
    try:
        text = inflater.decompress(data, MAX_INFLATED)
        if not inflater.eof:
            lost = "longer than the limit" if inflater.unconsumed_tail else "cut short"
    except zlib.error:
        text, lost = _salvage(data), "damaged"
    if not lost:
        try:
            uids = _json(text)
        except BadEvent:
            uids = None
        if isinstance(uids, list):
            return uids, ""
        lost = "no JSON array"
    return _complete_elements(text), lost


def _salvage(data: bytes) -> bytes:
    """What comes out before the damaged place."""
    inflater = zlib.decompressobj(wbits=31)
    pieces = []
    for start in range(0, len(data), 256):
        try:
            pieces.append(inflater.decompress(data[start : start + 256], MAX_INFLATED))
        except zlib.error:
            break
    return b"".join(pieces)[:MAX_INFLATED]


def _complete_elements(text: bytes) -> list[Any]:
    """The elements of a JSON array of texts that breaks off somewhere."""
    end = len(text)
    least = max(end - 16 * MAX_UID, 0)
    tries = 8
    while tries and (end := text.rfind(b'"', least, end)) >= 0:
        before = text[max(end - 64, 0) : end]
        if (len(before) - len(before.rstrip(b"\\"))) % 2:
            continue  # a quote inside a uid
        tries -= 1
        try:
            uids = _json(text[: end + 1] + b"]")
        except BadEvent:
            continue
        return uids if isinstance(uids, list) else []
    return []


def _status(element: Any) -> Status | None:
    """Split from the right, since a uid may hold dashes and even look like the fields."""
    if not isinstance(element, str):
        return None
    parts = element.rsplit("-", 5)
    if len(parts) == 6 and all(map(_is_count, parts[1:])):
        flag, online, connection, device_count, total_count = map(int, parts[1:])
        if online in (0, 1) and flag < 256 and total_count >= device_count and _is_uid(parts[0]):
            return Status(parts[0], flag, online == 1, connection, device_count, total_count)
    parts = element.rsplit("-", 2)
    if len(parts) == 3 and all(map(_is_count, parts[1:])):
        flag, online = map(int, parts[1:])
        if online in (0, 1) and flag < 256 and _is_uid(parts[0]):
            return Status(parts[0], flag, online == 1)
    return None


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _is_uid(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_UID and _is_unicode(value)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_CONTROLS = {c: None for c in range(32) if chr(c) not in "\n\t"} | {127: None}


def _readable(payload: bytes) -> str:
    """A payload that is no JSON as text, "" where it is not meant to be read."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return ""
    return "" if any(ord(c) in _CONTROLS for c in text[:MAX_TEXT] if c != "\r") else _showable(text)


def _showable(text: str) -> str:
    return text[:MAX_TEXT].translate(_CONTROLS).encode(errors="ignore").decode().strip()


def kind_of(value: Any) -> str:
    """What a JSON value is, in words, without the value."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a fraction"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return "an object"

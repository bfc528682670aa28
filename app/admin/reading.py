"""Checks what was sent against a struct: the same struct that the OpenAPI document describes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from app import events
from app.events import BadEvent, kind_of

T = TypeVar("T", bound=msgspec.Struct)

_decode = msgspec.json.Decoder().decode


class Refused(Exception):
    """What was sent cannot be used; the message names the field, what was found (not its value) and what is allowed."""


class Rule(NamedTuple):
    """What one field takes. nullable: whether null is a value of its own. most_bytes: of the text in UTF-8."""

    type: inspect.Type
    nullable: bool
    allowed: str
    required: bool
    most_bytes: int | None


def read(text: bytes, into: type[T]) -> T:
    """The JSON object in `text` as `into`; raises Refused."""
    if not text.strip():
        raise Refused("body: found nothing; allowed: a JSON object")
    try:
        document = _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(f"body: found no valid JSON ({_why(error, text)}); allowed: a JSON object") from None
    if not isinstance(document, dict):
        raise Refused(f"body: found {kind_of(document)}; allowed: an object")
    try:
        repeat = events.repeated(events.written(text))
    except BadEvent as error:
        raise Refused(str(error)) from None
    if repeat:
        raise Refused(f"body: {repeat}")
    return convert(document, into)


def _holds_half_a_pair(text: bytes) -> bool:
    """Whether this is JSON with half of a surrogate pair, of which the decoder says that the text breaks off."""
    try:
        json.dumps(events.written(text), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    except (BadEvent, RecursionError):
        return False
    return False


def _why(error: Exception, text: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if _holds_half_a_pair(text):
        return "half of a surrogate pair, which is no Unicode"
    return str(error)


def convert(document: Mapping[str, Any], into: type[T]) -> T:
    """The fields of `document` as `into`; raises Refused.

    A struct may name in `LATER` fields that are promised and not built yet.
    """
    known = rules(into)
    for name in document:
        if name in getattr(into, "LATER", ()):
            raise Refused(f"{name}: not available yet; leave it out")
        if name not in known:
            raise Refused(f"{shown(name)}: unknown; allowed: {', '.join(known) or 'nothing'}")
    values = {}
    for name, rule in known.items():
        if name in document:
            values[name] = _whole(document[name], rule)
            check(name, values[name], rule)
        elif rule.required:
            raise Refused(f"{name}: missing; allowed: {rule.allowed}")
    return into(**values)


def _whole(value: Any, rule: Rule) -> Any:
    """To JSON Schema, and to clients whose numbers are all fractions, 1.0 is a whole number."""
    if isinstance(rule.type, inspect.IntType) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def convert_texts(texts: Mapping[str, str], into: type[T]) -> T:
    """Like `convert`, where every value came as text: from a query or a path."""
    known = rules(into)
    return convert(
        {name: from_text(text, known[name]) if name in known else text for name, text in texts.items()}, into
    )


def from_text(text: str, rule: Rule) -> Any:
    """A whole number, true or false where one is wanted and written; `check` refuses what is left of the others."""
    if isinstance(rule.type, inspect.IntType) and re.fullmatch(r"-?[0-9]{1,20}", text):
        return int(text)
    if isinstance(rule.type, inspect.BoolType) and text in ("true", "false"):
        return text == "true"
    return text


@cache
def rules(struct: type[msgspec.Struct]) -> dict[str, Rule]:
    """What each field of a struct takes."""
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)
    return {field.encode_name: _rule(field) for field in described.fields}


def _rule(field: inspect.Field) -> Rule:
    extra: dict[str, Any] = {}
    types = list(field.type.types) if isinstance(field.type, inspect.UnionType) else [field.type]
    nullable = any(isinstance(each, inspect.NoneType) for each in types)
    (wanted,) = (each for each in types if not isinstance(each, inspect.NoneType))
    if isinstance(wanted, inspect.Metadata):
        extra, wanted = wanted.extra or {}, wanted.type
    allowed = extra.get("allowed") or _allowed(wanted)
    return Rule(
        wanted, nullable, f"{allowed} or null" if nullable else allowed, field.required, extra.get("most_bytes")
    )


def _allowed(wanted: inspect.Type) -> str:
    match wanted:
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.StrType(min_length=least, max_length=most):
            return f"a text of {least or 0} to {most} characters"
        case inspect.LiteralType(values=values):
            return ", ".join(map(str, values))
        case _:
            return "true or false"


def check(name: str, value: Any, rule: Rule) -> None:
    """Raises Refused where the value is none that the rule takes."""
    found = "" if value is None and rule.nullable else _fault(value, rule)
    if found:
        raise Refused(f"{name}: found {found}; allowed: {rule.allowed}")


def _fault(value: Any, rule: Rule) -> str:
    """What is wrong with a value, "" where nothing is."""
    match rule.type:
        case inspect.IntType(ge=least, le=most):
            if not isinstance(value, int) or isinstance(value, bool):
                return kind_of(value)
            inside = (least is None or least <= value) and (most is None or value <= most)
            return "" if inside else "a number out of range"
        case inspect.BoolType():
            return "" if isinstance(value, bool) else kind_of(value)
        case inspect.LiteralType(values=values):
            if not isinstance(value, str):
                return kind_of(value)
            return "" if value in values else "another text"
        case _:
            return _text_fault(value, rule)


def _text_fault(value: Any, rule: Rule) -> str:
    if not isinstance(value, str):
        return kind_of(value)
    text = rule.type
    assert isinstance(text, inspect.StrType)
    if not (text.min_length or 0) <= len(value) <= (text.max_length or len(value)):
        return f"a text of {len(value)} characters"
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "a text that is no Unicode"
    if rule.most_bytes is not None and size > rule.most_bytes:
        return f"a text of {size} bytes"
    if text.pattern is not None and re.fullmatch(text.pattern, value) is None:
        return "a text of another form"
    return ""


def shown(name: str) -> str:
    """A field's name that somebody else chose, fit for one line."""
    printable = "".join(c if c.isprintable() else "?" for c in name[:64])
    return (printable or "a field without a name") + ("…" if len(name) > 64 else "")

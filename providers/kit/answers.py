"""What all vendors' answers have in common: JSON that may be broken, Retry-After, the plain meaning of a status."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from providers.kit.base import Delivered, Misconfigured, Outcome, Rejected, Response, Retry, TokenInvalid, TooLarge

_DAY = 86400.0
_REASON_LENGTH = 160


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in an answer's body, or {} for anything else."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def plain(value: object) -> str:
    """A vendor's word in a form that is safe to store and to log: one short printable line, "" for a non-string."""
    if not isinstance(value, str):
        return ""
    if len(value) <= _REASON_LENGTH and value.isprintable():
        return value
    return "".join(char if char.isprintable() else " " for char in value[:_REASON_LENGTH]).strip()


def retry_after(response: Response, now: float | None = None) -> float | None:
    """Seconds that the Retry-After header asks for, given in seconds or as an HTTP date (RFC 9110, 10.2.3).

    None without a header that can be read. At most a day, as a push is worth nothing after that.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _DAY)
    try:
        at = parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(at - (time.time() if now is None else now), 0.0), _DAY)


def by_status(response: Response, reason: str = "") -> Outcome:
    """What a status means where the vendor's own table says nothing.

    A refusal that may be our fault never drops a token, and an answer that no vendor would give (a redirect,
    a 404 without a reason) says that the endpoint is wrong.
    """
    status = response.status
    text = reason or f"HTTP {status}"
    if 200 <= status < 300:
        return Delivered("")
    if status == 410:
        return TokenInvalid(text)
    if status == 413:
        return TooLarge(text)
    if status == 429:
        return Retry(text, after=retry_after(response) or 60.0)
    if status >= 500 or status in (408, 425):
        return Retry(text, after=retry_after(response))
    if status in (401, 403, 404, 407) or status < 400:
        return Misconfigured(text)
    return Rejected(text)

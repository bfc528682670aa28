"""Times as the outside reads and writes them: RFC 3339. Inside they are UNIX milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from providers.kit.values import Duration

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339 = re.compile(
    # A "+" that was not encoded arrives from a query as a space.
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:([Zz])|([+\- ])(\d\d:\d\d))",
    re.ASCII,
)


def utc(ms: int) -> str:
    """`2026-01-02T03:04:05.678Z`."""
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(ms: int) -> str:
    """The same instant in the time zone of this machine, with its offset."""
    return (_EPOCH + timedelta(milliseconds=ms)).astimezone().isoformat(timespec="milliseconds")


def parse(text: str) -> int | None:
    """UNIX milliseconds of an RFC 3339 time, None where it is none."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, _, sign, offset = match.groups()
    zone = f"{'+' if sign == ' ' else sign}{offset}" if offset else "+00:00"
    try:
        # A leap second is the last one of its minute twice.
        moment = datetime.fromisoformat(f"{day}T{clock.replace(':60', ':59')}{zone}")
    except ValueError:
        return None
    return (moment - _EPOCH) // timedelta(milliseconds=1) + int((fraction or "0").ljust(3, "0")[:3])


def since(text: str, now: int) -> int | None:
    """UNIX milliseconds of an RFC 3339 time, or of so long ago as `1h`; None where it is neither."""
    try:
        return now - int(Duration.parse(text) * 1000)
    except ValueError:
        return parse(text)

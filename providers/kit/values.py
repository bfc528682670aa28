"""The value types of configuration blocks: secrets, durations, and what every networked provider takes."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, Struct

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Secret:
    """Bytes that must never be printed: a key, a certificate, a password, a token.

    In a configuration block a field `xyz` of this type may be given in place or as `xyz_file`.
    """

    __slots__ = ("raw",)

    def __init__(self, value: bytes | str) -> None:
        self.raw = value.encode() if isinstance(value, str) else value

    @property
    def text(self) -> str:
        """The secret as text; raises UnicodeDecodeError where a binary file was given."""
        return self.raw.decode()

    def __bool__(self) -> bool:
        return bool(self.raw)

    def __repr__(self) -> str:
        return "Secret(…)" if self.raw else "Secret()"


class Duration(float):
    """Seconds, written `500ms`, `3s`, `10m`, `24h` or `7d`."""

    allowed = "a time such as 500ms, 3s, 10m, 24h or 7d"

    @classmethod
    def parse(cls, text: object) -> Duration:
        match = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(cls.allowed)
        return cls(int(match[1]) * _UNITS[match[2]])


class Period(Duration):
    """A duration that cannot be none."""

    allowed = "a time above zero, such as 500ms, 3s, 10m, 24h or 7d"

    @classmethod
    def parse(cls, text: object) -> Duration:
        if not (found := super().parse(text)):
            raise ValueError(cls.allowed)
        return found


class PeriodOrOff(Period):
    """A period, or `off`, which is zero and so false."""

    allowed = "off, or a time above zero, such as 12h or 90d"

    @classmethod
    def parse(cls, text: object) -> Duration:
        # What YAML makes of the bare word, or what is left of an environment variable that is not set.
        return cls(0) if text is False or text in ("off", "") else super().parse(text)


class Size(int):
    """Bytes, at least one, written `64KiB` or `8MiB`."""

    allowed = "a size above zero, such as 512B, 64KiB or 8MiB"

    @classmethod
    def parse(cls, text: object) -> Size:
        match = re.fullmatch(r"(?!0+\D)(\d{1,9})(B|KiB|MiB|GiB)", text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(cls.allowed)
        return cls(int(match[1]) * _SIZES[match[2]])


class Network(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys that the block of every networked provider takes.

    endpoint: base URL in place of the vendor's, to point at a test double or a gateway.
    ca: PEM certificates to trust beside the usual ones (`ca_file`).
    proxy: URL of an HTTP CONNECT proxy, user and password in it if it asks for them.
    timeout: how long one push may take, connecting included.
    max_connections: HTTP/2 connections at most; a further one is opened only when the others are full.
    """

    type: str
    endpoint: str = ""
    ca: Secret = Secret(b"")
    proxy: str = ""
    timeout: Period = Period(15)
    max_connections: Annotated[int, Meta(ge=1, le=64)] = 4

    def __repr__(self) -> str:
        """Without the proxy's password."""
        return f"{type(self).__name__}(type={self.type!r}, endpoint={self.endpoint!r})"

"""The kinds of value that the admin API takes, each with its bounds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from app.events import MAX_UID
from app.store.keys import MAX_BYTES

INT64 = 2**63 - 1

_LINE = r"^[^\x00-\x1f\x7f]*$"
"""One line: no control character, which some databases cannot keep and no phone shows."""

Uid = Annotated[str, Meta(min_length=1, max_length=MAX_UID)]
DeviceId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_BYTES,
        pattern=r"^[^\x00]+$",
        description=f"At most {MAX_BYTES} bytes of UTF-8, without NUL.",
        extra={"allowed": f"a text of 1 to {MAX_BYTES} bytes without NUL", "most_bytes": MAX_BYTES},
    ),
]
Byte = Annotated[int, Meta(ge=0, le=255)]
RowId = Annotated[int, Meta(ge=1, le=INT64)]
MessageId = Annotated[int, Meta(ge=1, le=INT64)]
Name = Annotated[
    str,
    Meta(max_length=255, pattern=_LINE, extra={"allowed": "a text of up to 255 characters without control characters"}),
]
Title = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=_LINE,
        extra={"allowed": "a text of 1 to 255 characters without control characters"},
    ),
]
Body = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1000,
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$",
        extra={"allowed": "a text of 1 to 1000 characters without control characters other than line ends and tabs"},
    ),
]
Locale = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^([A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*)?$",
        description="Empty where there is none.",
        examples=["en", "zh-Hans-CN"],
        extra={"allowed": "a language tag such as en or zh-Hans-CN, of up to 64 characters"},
    ),
]
Token = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=_LINE,
        extra={"allowed": "a text of 1 to 4096 characters without control characters"},
    ),
]
VoipToken = Annotated[
    str,
    Meta(
        max_length=4096,
        pattern=_LINE,
        description="Empty where there is none.",
        extra={"allowed": "a text of up to 4096 characters without control characters"},
    ),
]
AppVersion = Annotated[
    str,
    Meta(max_length=64, pattern=_LINE, extra={"allowed": "a text of up to 64 characters without control characters"}),
]
ProviderName = Annotated[str, Meta(min_length=1, max_length=64, extra={"allowed": "the name of a configured provider"})]


class Ids(Struct, frozen=True):
    """The ids in paths."""

    uid: Uid
    device_id: DeviceId
    channel_type: Byte
    channel_id: Uid
    id: RowId

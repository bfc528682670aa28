"""The words of the domain as frozen values."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from hashlib import blake2b

from msgspec import Struct

PERSON = 1
"""The channel type of a conversation between two people; every other type is shown under the channel's name."""

APP = 0
"""The device flag of a phone app; 1 is the web, 2 a PC, 99 the system, others pass through."""


class Outcome(StrEnum):
    """What became of one message for one device: the trace's words."""

    QUEUED = "queued"
    HELD = "held"
    SENT = "sent"
    SUPPRESSED = "suppressed"
    SKIPPED = "skipped"
    RETRYING = "retrying"
    INVALID_TOKEN = "invalid_token"  # noqa: S105
    REJECTED = "rejected"
    DEAD = "dead"


PENDING = frozenset({Outcome.QUEUED, Outcome.HELD, Outcome.RETRYING})
"""Outcomes that are not the last word."""


class Message(Struct, frozen=True, kw_only=True):
    """One message as WuKongIM posted it.

    message_id: above 2^53, never through a float.
    timestamp: UNIX seconds; on v2 the time of the webhook, not of the message.
    expire: seconds from `timestamp`, 0 = none.
    setting: bit 5 = encrypted end to end.
    payload: the bytes that the sender's client chose, often but not always JSON.
    """

    message_id: int
    message_seq: int = 0
    client_msg_no: str = ""
    from_uid: str = ""
    channel_id: str = ""
    channel_type: int = PERSON
    timestamp: int = 0
    expire: int = 0
    setting: int = 0
    sync_once: bool = False
    payload: bytes = b""

    @property
    def expires_at(self) -> int | None:
        """UNIX seconds after which nobody wants the message; None = never."""
        return self.timestamp + self.expire if self.expire > 0 else None

    @property
    def encrypted(self) -> bool:
        return bool(self.setting & 0x20)

    @property
    def thread(self) -> tuple[int, str]:
        """(channel type, channel id) of the conversation as the recipient sees it."""
        if self.channel_type == PERSON:
            return PERSON, self.from_uid
        return self.channel_type, self.channel_id

    @property
    def channel_key(self) -> int:
        """The conversation as a number: what takes turns with others, and what is kept in order."""
        kind, name = self.thread
        return int.from_bytes(blake2b(f"{kind}:{name}".encode(), digest_size=8).digest(), "big", signed=True)


class Lane(IntEnum):
    """Which pushes go ahead: for somebody who may be waited for, before groups, before groups by the thousand."""

    NOW = 0
    NORMAL = 1
    BULK = 2


class Recipients(Struct, frozen=True):
    """Who a message is for, and how much of the list could not be read.

    bad: elements that are no uid. lost: why the rest of a compressed list is missing; "" when all of it is here.
    """

    uids: tuple[str, ...]
    bad: int = 0
    lost: str = ""


class Status(Struct, frozen=True):
    """One element of `user.onlinestatus`. The counts are those after the event; None in the old three-field form."""

    uid: str
    device_flag: int
    online: bool
    connection: int | None = None
    device_count: int | None = None
    total_count: int | None = None


class Connection(Struct, frozen=True):
    """What is known of one user on one kind of device. Times are UNIX milliseconds.

    since: when it last changed between online and offline.
    seen: when it was last said.
    opened, count: the connection that came last, and how many there were with it. A count of 0 with `online`: what
    was said may have been overtaken, so that it is in doubt.
    closed, closed_at: the latest connection that closed, and when one was last said to.
    """

    online: bool
    since: int
    seen: int
    opened: int | None = None
    count: int | None = None
    closed: int | None = None
    closed_at: int = 0


Connections = dict[int, Connection]
"""A user's connections by device flag."""


class Device(Struct, frozen=True):
    """One registered phone. Times are UNIX milliseconds.

    registered_at: of the last registration.
    succeeded_at: of a push that it took, to the day; 0 = never.
    removed_at, removed_reason: since when, and for which word of the vendor, it is in quarantine; None = it is not.
    """

    uid: str
    device_id: str
    provider: str
    token: str
    registered_at: int
    updated_at: int = 0
    locale: str = ""
    device_flag: int = APP
    voip_token: str = ""
    app_version: str = ""
    succeeded_at: int = 0
    removed_at: int | None = None
    removed_reason: str = ""

    @property
    def seen_at(self) -> int:
        """When it last showed that it is there."""
        return max(self.registered_at, self.succeeded_at)


SUCCESS_KEPT_EVERY = 86_400_000
"""Milliseconds: `Device.succeeded_at` is no more exact than this, since most devices take many pushes a day."""


class Settings(Struct, frozen=True):
    """What the admin API keeps of a user; None and "" mean that nothing was set."""

    name: str = ""
    locale: str = ""
    show_content: bool | None = None


class Names(Struct, frozen=True):
    """The names a message is shown under; "" where unknown."""

    sender: str = ""
    channel: str = ""


class Push(Struct, frozen=True):
    """Send the message to this device."""

    device: Device


class Hold(Struct, frozen=True):
    """The user looks online: decide again at `until` (UNIX milliseconds), or when an offline event comes."""

    until: int


class Skip(Struct, frozen=True):
    """No push, and why, in the trace's words. `device`: None where it is the user as a whole that gets none."""

    outcome: Outcome
    reason: str
    device: Device | None = None


Decision = Push | Hold | Skip


class Content(Struct, frozen=True):
    """What a payload says.

    type: 0 where it names none. text: what can be shown as it stands, "" if nothing.
    mentions: the uids that it calls by name. mentions_all: it calls everybody.
    """

    type: int = 0
    text: str = ""
    mentions: frozenset[str] = frozenset()
    mentions_all: bool = False

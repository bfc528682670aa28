"""What passes between the steps of the dispatcher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from app import events, plan
from app.intake import BULK_FROM, RESCUE, TEST, TestPush
from app.model import Connections, Content, Device, Lane, Message, Names, Outcome, Recipients, Settings
from app.store.rows import Delivery, Drop, Event, Touch
from providers.kit.base import Notice

FAULT = "a fault of this program: its log says which"
"""The reason of what is given up though neither message nor vendor is to blame."""


class Parsed(Struct, frozen=True, kw_only=True):
    """One event as it is worked on.

    words: title and body of a test push, which nobody wrote. channel: Message.channel_key.
    bulk: it is for a great many people. expires_at: UNIX milliseconds after which nobody wants it; None = never.
    """

    event_id: int
    received_at: int
    source: str
    message: Message
    content: Content
    recipients: Recipients
    words: tuple[str, str] | None = None
    channel: int = 0
    bulk: bool = False
    expires_at: int | None = None

    def lane(self, uid: str) -> Lane:
        """Which pushes those for this recipient go ahead of."""
        return Lane.NOW if self.words is not None else plan.lane(self.message, self.content, uid, self.bulk)


_FAR = 2**62
"""What a column holds."""


def parse(event: Event) -> Parsed:
    """The event, without the payload that its content was made of. Raises events.BadEvent for a body that is none."""
    if event.kind == TEST:
        push = msgspec.json.decode(event.body, type=TestPush)
        return Parsed(
            event_id=event.id,
            received_at=event.received_at,
            source=TEST,
            message=Message(message_id=push.message_id, timestamp=event.received_at // 1000),
            content=Content(),
            recipients=Recipients((push.uid,)),
            words=(push.title, push.body),
        )
    message, recipients = events.offline(event.body)
    return Parsed(
        event_id=event.id,
        received_at=event.received_at,
        source=RESCUE if event.kind == RESCUE else events.OFFLINE,
        message=replace(message, payload=b""),
        content=events.content(message.payload),
        recipients=recipients,
        channel=message.channel_key,
        bulk=len(recipients.uids) > BULK_FROM,
        expires_at=None if message.expires_at is None else min(message.expires_at * 1000, _FAR),
    )


@dataclass(slots=True)
class Progress:
    """How far the dispatcher is with one claimed event.

    attempts: how often planning it failed before. pending: pushes that have no outcome yet. planned: all recipients
    were looked at. failed: some could not be planned. finished: nothing more happens to it here.
    """

    parsed: Parsed
    attempts: int = 0
    pending: int = 0
    planned: bool = False
    failed: bool = False
    finished: bool = False


class Known(Struct, frozen=True, kw_only=True):
    """What the database knows of a batch: read once for all of it."""

    devices: Mapping[str, list[Device]]
    settings: Mapping[str, Settings]
    presence: Mapping[str, Connections]
    channels: Mapping[tuple[int, str], str]
    decided: set[tuple[int, str, str]] = set()

    def names(self, message: Message) -> Names:
        sender = self.settings.get(message.from_uid)
        return Names(
            sender=sender.name if sender else "",
            channel=self.channels.get((message.channel_type, message.channel_id), ""),
        )


Order = tuple[str, str, int, int]
"""User, device, channel and lane."""


@dataclass(slots=True)
class Job:
    """One push on its way.

    row_id: its row, 0 where none is written yet. progress: None for one taken up again. order: what it must not
    overtake: earlier ones to the same device in the same conversation and lane; set when there is room for it.
    """

    parsed: Parsed
    device: Device
    notice: Notice
    prepared: Any
    progress: Progress | None
    row_id: int = 0
    attempts: int = 0
    first_at: int = 0
    lane: Lane = Lane.NORMAL
    order: Order = ("", "", 0, 0)

    def row(self, outcome: Outcome, now: int, reason: str = "", **more: Any) -> Delivery:
        """The trace of this push."""
        return Delivery(
            id=self.row_id,
            message_id=self.parsed.message.message_id,
            uid=self.device.uid,
            device_id=self.device.device_id,
            provider=self.device.provider,
            outcome=outcome,
            reason=reason,
            source=self.parsed.source,
            attempts=self.attempts,
            first_at=self.first_at,
            at=now,
            latency_ms=max(0, now - self.first_at),
            lane=self.lane,
            channel=self.parsed.channel,
            expires_at=self.parsed.expires_at,
            **more,
        )


def _bare(row: Delivery) -> Delivery:
    return replace(row, outcome=Outcome.DEAD, reason="outcome not writable", provider_id="", due_at=None, event_id=None)


class Restore(Struct, frozen=True):
    """Devices of a provider that were put in quarantine for these reasons since then are not dead after all."""

    provider: str
    reasons: Sequence[str]
    since: int


@dataclass(slots=True)
class Batch:
    """What is to be settled together, in one transaction.

    new: rows that have none yet. changed: rows that this dispatcher holds. finished: events that are planned whole
    and have no push under way. given_back: those that could not be planned whole.
    restores: devices that come back. loose: events whose last reference may have gone. ended: what was worked on until
    this is written.
    """

    new: list[Delivery] = field(default_factory=list)
    changed: list[Delivery] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    restores: list[Restore] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    given_back: list[Progress] = field(default_factory=list)
    loose: list[int] = field(default_factory=list)
    ended: list[Progress] = field(default_factory=list)

    def add(self, row: Delivery, event_id: int) -> None:
        """A row that has an outcome: the last word, or with `due_at` one that is taken up again."""
        if row.id:
            self.changed.append(row)
            if row.event_id is None:
                self.loose.append(event_id)
        else:
            self.new.append(row)

    def cut(self, most: int) -> Iterator[Batch]:
        """Batches of so many rows of a kind at most, each gone from this one when the next is asked for.

        What ends an event comes with the last of its rows, or after.
        """
        while len(self.new) > most:
            yield Batch(new=self.new[:most])
            del self.new[:most]
        while len(self.changed) > most:
            yield Batch(changed=self.changed[:most])
            del self.changed[:most]
        yield self

    def parts(self) -> list[Batch]:
        """Everything in a batch of its own, where one of it cannot be written."""
        return [Batch(**{f.name: [one]}) for f in fields(self) if f.name != "ended" for one in getattr(self, f.name)]

    def bare(self) -> Batch:
        """The rows with nothing in them that anybody else wrote; the first look for what a database does not take."""
        return Batch(new=[_bare(row) for row in self.new], changed=[_bare(row) for row in self.changed])

    def __add__(self, later: Batch) -> Batch:
        return Batch(*(getattr(self, f.name) + getattr(later, f.name) for f in fields(self)))

    def __len__(self) -> int:
        return len(self.new) + len(self.changed) + len(self.finished) + len(self.given_back) + len(self.restores)

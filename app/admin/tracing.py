"""Why a push did or did not arrive: the trace and the dead letters as they are shown."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from app.admin import fields, times
from app.admin.reading import Refused
from app.store import deliveries
from app.store.dialect import Database
from app.store.rows import Delivery

OutcomeWord = Literal[
    "queued",
    "held",
    "sent",
    "suppressed",
    "muted",
    "skipped",
    "retrying",
    "invalid_token",
    "rejected",
    "dead",
]
"""The trace's words: those of model.Outcome, and `muted`, which is promised and does not occur yet."""

Limit = Annotated[int, Meta(ge=1, le=1000)]
_CURSOR = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)
Before = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="An RFC 3339 time, or the `next` of an earlier answer.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": "^[0-9]{1,18}-[0-9]{1,18}$"}]},
    ),
]


class TraceQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which outcomes to show."""

    uid: fields.Uid | UnsetType = UNSET
    message_id: fields.MessageId | UnsetType = UNSET
    outcome: OutcomeWord | UnsetType = UNSET
    limit: Limit = 50
    before: Before | UnsetType = UNSET


Reason = Annotated[
    str,
    Meta(
        description="Why, in the vendor's words where it was the vendor. Of `suppressed`: online. Of `skipped`: "
        "sender, sync_once, type, no_device, stale (silent for longer than devices.stale_after), expired."
    ),
]


Source = Annotated[
    str,
    Meta(
        description="What brought it: msg.offline, rescue (its msg.offline never came), test (a test push); status or "
        "another event's name where that call could not be worked on."
    ),
]


class Record(Struct, frozen=True, kw_only=True):
    """The outcome of one message for one device; `device_id` is empty where it concerns the user as a whole."""

    message_id: Annotated[str, Meta(description="Decimal: larger than a JavaScript number can hold.")]
    uid: str
    device_id: str
    provider: str
    outcome: OutcomeWord
    reason: Reason
    provider_id: str
    source: Source
    at: str
    latency_ms: int
    attempts: int


class Trace(Struct, frozen=True, kw_only=True):
    """Outcomes, the newest first. `next`: the `before` of the following page, null at the end."""

    records: list[Record]
    next: str | None


class LettersQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to show. before: the `next` of an earlier answer."""

    limit: Limit = 50
    before: fields.RowId | UnsetType = UNSET


class Letter(Struct, frozen=True, kw_only=True):
    """A push that was given up and can be tried again. Its content is never shown."""

    id: int
    message_id: str
    uid: str
    device_id: str
    provider: str
    reason: str
    source: Source
    first_at: str
    at: str
    attempts: int


class Letters(Struct, frozen=True, kw_only=True):
    """Dead letters, the newest first. `next`: the `before` of the following page, null at the end."""

    dead_letters: list[Letter]
    next: int | None


class Retried(Struct, frozen=True):
    """A dead letter that is tried again."""

    id: int
    outcome: OutcomeWord = "retrying"


def parse_before(text: str) -> tuple[int, int]:
    """The (at, id) that a `before` names; raises Refused."""
    cursor = _CURSOR.fullmatch(text)
    if cursor is not None:
        return int(cursor[1]), int(cursor[2])
    at = times.parse(text)
    if at is None:
        raise Refused("before: found another text; allowed: an RFC 3339 time, or the next of an earlier answer")
    return at, 0


def trace(database: Database, query: TraceQuery) -> tuple[list[Delivery], str | None]:
    """Rows for a query, the newest first, and where the following page begins; raises Refused."""
    before = None if query.before is UNSET else parse_before(query.before)
    with database.read() as connection:
        rows = deliveries.trace(
            connection,
            uid=None if query.uid is UNSET else query.uid,
            message_id=None if query.message_id is UNSET else query.message_id,
            outcome=None if query.outcome is UNSET else query.outcome,
            limit=query.limit + 1,
            before=before,
        )
    page = rows[: query.limit]
    return page, f"{page[-1].at}-{page[-1].id}" if len(rows) > len(page) else None


def record(row: Delivery) -> Record:
    """A row of the trace as it is shown."""
    return Record(
        message_id=str(row.message_id),
        uid=row.uid,
        device_id=row.device_id,
        provider=row.provider,
        outcome=row.outcome.value,
        reason=row.reason,
        provider_id=row.provider_id,
        source=row.source,
        at=times.utc(row.at),
        latency_ms=row.latency_ms,
        attempts=row.attempts,
    )


def letters(database: Database, query: LettersQuery) -> tuple[list[Delivery], int | None]:
    """Dead letters for a query, the newest first, and where the following page begins."""
    with database.read() as connection:
        before = None if query.before is UNSET else query.before
        rows = deliveries.dead_letters(connection, query.limit + 1, before)
    page = rows[: query.limit]
    return page, page[-1].id if len(rows) > len(page) else None


def letter(row: Delivery) -> Letter:
    """A dead letter as it is shown."""
    return Letter(
        id=row.id,
        message_id=str(row.message_id),
        uid=row.uid,
        device_id=row.device_id,
        provider=row.provider,
        reason=row.reason,
        source=row.source,
        first_at=times.utc(row.first_at),
        at=times.utc(row.at),
        attempts=row.attempts,
    )


def retry(database: Database, letter_id: int, now: int) -> bool:
    """Have a dead letter tried again; False where there is none of that id."""
    with database.write() as connection:
        return deliveries.retry_dead(connection, letter_id, now)


def forget(database: Database, letter_id: int) -> bool:
    """Let go of a dead letter; False where there is none of that id."""
    with database.write() as connection:
        return deliveries.forget_dead(connection, letter_id)

"""A test push to each device of a user, and the wait for what became of it."""

from __future__ import annotations

import time
from typing import Annotated

from msgspec import Meta, Struct

from app.admin import fields
from app.admin.tracing import OutcomeWord
from app.intake import Intake
from app.model import PENDING, Device, Outcome
from app.store import deliveries, devices
from app.store.dialect import Database
from app.store.rows import Delivery

PATIENCE = 10.0
"""Seconds to wait for every device's outcome."""
_FIRST_LOOK, _LONGEST_STEP = 0.02, 0.5


class TestBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the test push says."""

    title: fields.Title = "Pushbridge"
    body: fields.Body = "This is a test push."


class TestOutcome(Struct, frozen=True, kw_only=True):
    """What became of the test push for one device; `queued` where nothing is known yet."""

    device_id: str
    provider: str
    outcome: OutcomeWord
    reason: str
    provider_id: str
    latency_ms: int


class TestReport(Struct, frozen=True, kw_only=True):
    """complete: whether every device has its answer. One that is tried again has one: why the first try failed."""

    message_id: Annotated[str, Meta(description="Decimal; look it up in the trace.")]
    results: list[TestOutcome]
    complete: bool


def send(database: Database, intake: Intake, uid: str, body: TestBody, patience: float) -> TestReport | None:
    """Send, and wait up to `patience` seconds; None where the user has no device.

    Raises store.writer.NotStored where the push could not be kept.
    """
    with database.read() as connection:
        registered = devices.of_users(connection, [uid]).get(uid)
    if not registered:
        return None
    message_id = intake.test(uid, body.title, body.body)
    deadline = time.monotonic() + patience
    step = _FIRST_LOOK
    while True:
        report = _report(database, message_id, registered)
        left = deadline - time.monotonic()
        if report.complete or left <= 0:
            return report
        time.sleep(min(step, left))
        step = min(step * 1.5, _LONGEST_STEP)


def _report(database: Database, message_id: int, registered: list[Device]) -> TestReport:
    with database.read() as connection:
        rows = deliveries.trace(connection, message_id=message_id, limit=len(registered) + 1)
    by_device = {row.device_id: row for row in rows}
    whole = by_device.get("")  # the user as a whole was passed over: nothing more comes for any device
    results = [_result(device, by_device.get(device.device_id, whole)) for device in registered]
    answered = all(
        row is not None and _is_answer(row) for d in registered for row in [by_device.get(d.device_id, whole)]
    )
    return TestReport(message_id=str(message_id), results=results, complete=answered)


def _is_answer(row: Delivery) -> bool:
    return row.outcome is Outcome.RETRYING or row.outcome not in PENDING


def _result(device: Device, row: Delivery | None) -> TestOutcome:
    return TestOutcome(
        device_id=device.device_id,
        provider=device.provider,
        outcome=(row.outcome if row else Outcome.QUEUED).value,
        reason=row.reason if row else "",
        provider_id=row.provider_id if row else "",
        latency_ms=row.latency_ms if row else 0,
    )

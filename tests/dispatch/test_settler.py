"""How outcomes get into the database: in pieces, between which others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import func, select

from app import metrics
from app.clock import now_ms
from app.dispatch import settling
from app.dispatch.settler import Settler
from app.dispatch.settling import SETTLED_TOGETHER
from app.dispatch.shared import Shared
from app.model import Outcome
from app.settle import Limits
from app.store import deliveries, devices
from app.store.rows import Delivery, Drop
from app.store.schema import deliveries as table
from tests.dispatch.conftest import Bridge, Stub
from tests.dispatch.test_work import RULES

ROWS = 3 * SETTLED_TOGETHER + 1


@pytest.fixture
def shared(bridge: Bridge) -> Iterator[Shared]:
    made = Shared(bridge.database, {}, RULES, Limits(), "me", ["due", "held"])
    yield made
    made.close()


def rows(count: int, outcome: Outcome, due_at: int | None = None) -> list[Delivery]:
    now = now_ms()
    return [
        Delivery(
            message_id=n, uid=f"u{n}", device_id="d", provider="p", outcome=outcome, first_at=now, at=now, due_at=due_at
        )
        for n in range(1, count + 1)
    ]


def counts(bridge: Bridge) -> dict[str, int]:
    with bridge.database.read() as connection:
        found = connection.execute(select(table.c.outcome, func.count()).group_by(table.c.outcome))
        return dict(found.all())


async def seen_between(bridge: Bridge, shared: Shared, settled: list[Delivery]) -> dict[str, int]:
    """Settle these rows; what somebody in a hurry finds who comes while the first of them are written."""
    settler = Settler(shared)
    for row in settled:
        settler.add(row, 0)
    flush = asyncio.create_task(settler.flush())
    await asyncio.sleep(0)
    found = await shared.write(lambda: counts(bridge), urgent=True)
    await flush
    return found


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_urgent_goes_between_the_pieces_of_a_large_batch(bridge: Bridge, shared: Shared, stored: bool) -> None:
    new = rows(ROWS, Outcome.SENT)
    if stored:
        with bridge.database.write() as connection:
            deliveries.insert_new(connection, rows(ROWS, Outcome.QUEUED, due_at=1))
            claimed = deliveries.claim_due(connection, "p", 0, ROWS, "me", now_ms(), 1_000)
            new = [replace(row, outcome=Outcome.SENT) for row in claimed]
    found = asyncio.run(seen_between(bridge, shared, new))
    assert found[Outcome.SENT] == SETTLED_TOGETHER
    assert counts(bridge) == {Outcome.SENT: ROWS}


def test_others_write_between_the_steps_in_which_devices_come_back(
    bridge: Bridge, shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "RESTORED_TOGETHER", 2)
    for number in range(5):
        bridge.register(f"u{number}", "good")
    with bridge.database.write() as connection:
        gone = [Drop(f"u{n}", "phone", "good", f"good-u{n}", 2, "BadDeviceToken") for n in range(5)]
        assert devices.drop(connection, gone, now_ms()) == 5

    async def scenario() -> list[int]:
        settler = Settler(shared)
        settler.alarmed("good", ["BadDeviceToken"], 0)
        flush = asyncio.create_task(settler.flush())
        await asyncio.sleep(0)
        seen = []
        while not flush.done():
            seen.append(await shared.write(bridge.devices))
        await flush
        return seen

    seen = asyncio.run(scenario())
    assert {0, 2, 4} <= set(seen)
    assert bridge.devices() == 5


@pytest.mark.parametrize("urgent", [False, True])
def test_it_is_behind_until_what_it_was_given_is_written(
    bridge: Bridge, shared: Shared, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    monkeypatch.setattr("app.dispatch.settler.URGENT_BEHIND" if urgent else "app.dispatch.settler.BEHIND", ROWS - 1)
    settler = Settler(shared)

    async def scenario() -> list[bool]:
        for row in rows(ROWS, Outcome.SENT):
            settler.add(row, 0)
        seen = [settler.is_behind(urgent)]
        flush = asyncio.create_task(settler.flush())
        await asyncio.sleep(0)
        seen.append(settler.is_behind(urgent))
        await flush
        return [*seen, settler.is_behind(urgent)]

    assert asyncio.run(scenario()) == [True, True, False]


def test_dead_letters_are_told_before_the_first(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Counter("pushbridge_outcomes", "", ["provider", "outcome"], registry=CollectorRegistry())
    monkeypatch.setattr(metrics, "OUTCOMES", fresh)
    shared = Shared(bridge.database, {"ios": Stub("ios"), "good": Stub("good")}, RULES, Limits(), "me", [])
    Settler(shared)
    shared.close()
    (family,) = fresh.collect()
    totals = [sample for sample in family.samples if sample.name.endswith("_total")]
    told = {(sample.labels["provider"], sample.labels["outcome"], sample.value) for sample in totals}
    assert told == {("", "dead", 0), ("good", "dead", 0), ("ios", "dead", 0)}

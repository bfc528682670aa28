"""What is forgotten, a little at a time."""

from __future__ import annotations

import asyncio

import pytest

from app import plan
from app.clock import now_ms
from app.dispatch import tidy
from app.dispatch.shared import Shared
from app.dispatch.steps import Rules
from app.model import Connection, Outcome
from app.settle import Limits
from app.store import deliveries, presence
from app.store.rows import Delivery
from tests.dispatch.conftest import Bridge, Stub

DAY = 86_400_000


def row(uid: str, at: int, provider: str = "good", due_at: int | None = None) -> Delivery:
    outcome = Outcome.SENT if due_at is None else Outcome.QUEUED
    return Delivery(
        message_id=1, uid=uid, device_id="d", provider=provider, outcome=outcome, first_at=at, at=at, due_at=due_at
    )


def keep(bridge: Bridge, *rows: Delivery) -> None:
    with bridge.database.write() as connection:
        deliveries.insert_new(connection, rows)


def rounds(bridge: Bridge, count: int) -> tidy.Tidy:
    """Begin anew, with so many rounds."""
    rules = Rules(plan.Policy(), style=None)  # type: ignore[arg-type]
    shared = Shared(bridge.database, {"good": Stub("good")}, rules, Limits(), "me", ())
    made = tidy.Tidy(shared, retention=DAY, quarantine=DAY)
    more(made, count)
    return made


def more(made: tidy.Tidy, count: int) -> None:
    async def run() -> None:
        for _ in range(count):
            await made.round()

    asyncio.run(run())


def test_a_round_forgets_all_that_is_old_however_little_a_step_takes(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "ROWS", 2)
    now = now_ms()
    keep(bridge, *(row(f"old {n}", now - 2 * DAY) for n in range(7)), row("young", now))
    keep(bridge, *(row(f"waits {n}", now - 2 * DAY, due_at=now + DAY) for n in range(5)))
    keep(bridge, *(row(f"gone {n}", now - 2 * DAY, "removed", now + DAY) for n in range(5)))
    rounds(bridge, 1)
    left = bridge.rows()
    assert left.keys() == {"young", *(f"waits {n}" for n in range(5)), *(f"gone {n}" for n in range(5))}
    assert {left[f"gone {n}"].reason for n in range(5)} == {"provider_unknown"}


def test_what_was_sent_of_a_call_that_is_not_planned_whole_is_remembered(bridge: Bridge) -> None:
    """A dispatcher that was killed in the midst of a group and comes back after `retention` must not send it again."""
    old = now_ms() - 2 * DAY
    bridge.message("sent", "next", at=old)
    keep(bridge, row("before", old - 1), row("sent", old + 1))
    rounds(bridge, 1)
    assert bridge.rows().keys() == {"sent"}


def test_what_waits_is_passed_over_in_one_round_and_looked_at_again_now_and_then(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "ANEW", 3)
    now = now_ms()
    keep(bridge, row("waits", now - 2 * DAY, due_at=now + DAY))
    made = rounds(bridge, 1)
    keep(bridge, row("late", now - 3 * DAY), row("next", now - 2 * DAY + 1))
    more(made, 2)
    assert bridge.rows().keys() == {"waits", "late"}
    more(made, 1)
    assert bridge.rows().keys() == {"waits"}


def test_who_is_offline_for_long_is_forgotten_over_several_rounds(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy, "WALKED", 2)
    old = now_ms() - tidy.OFFLINE_KNOWN - DAY
    uids = [f"u{n}" for n in range(5)]
    with bridge.database.write() as connection:
        presence.put(connection, {uid: {0: Connection(False, old, old)} for uid in uids})
    made = rounds(bridge, 1)

    def known() -> set[str]:
        with bridge.database.read() as connection:
            return set(presence.of_users(connection, uids))

    assert known() == {"u2", "u3", "u4"}
    more(made, 2)
    assert known() == set()

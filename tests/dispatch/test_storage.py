"""A dispatcher whose database cannot be written for a while, and what no database would take."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from app import presence
from app.dispatch import sender, settling, steps
from app.model import Status
from app.store import deliveries, dialect, inbox
from app.store.opening import open_database
from app.store.rows import Delivery
from providers.kit.base import Delivered, Request, Retry, Target
from tests.dispatch.conftest import Bridge, Gated, Stub

FAULT = "a fault of this program: its log says which"


@pytest.fixture
def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bridge]:
    """One whose database is waited for in short steps."""
    monkeypatch.setattr(dialect, "BUSY", 10)
    with closing(open_database(tmp_path, durability="normal")) as database, closing(Bridge(database)) as bridge:
        yield bridge


@contextmanager
def held(bridge: Bridge) -> Iterator[None]:
    """Another program keeps every writer out."""
    file = bridge.database.engine.url.database
    assert file is not None
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("COMMIT")


def people(bridge: Bridge, count: int, provider: str = "good") -> list[str]:
    uids = [f"u{n}" for n in range(count)]
    for uid in uids:
        bridge.register(uid, provider)
    return uids


def test_what_was_sent_while_nothing_could_be_written_is_written_in_the_end(bridge: Bridge) -> None:
    uids = people(bridge, 50)

    async def scenario() -> None:
        good = Gated("good")
        async with bridge.running(good) as wait:
            bridge.message(*uids)
            await wait(lambda: len(good.sent) == 50)
            with held(bridge):
                good.gate.set()
                await wait(lambda: bool(bridge.dispatcher._shared._fault))
                assert bridge.outcomes() == {}
            await wait(lambda: len(bridge.outcomes()) == 50)
            assert bridge.dispatcher._shared._fault == ""
        assert len(good.sent) == 50, "each once"

    asyncio.run(scenario())
    assert set(bridge.outcomes().values()) == {"sent"}


def test_a_dispatcher_that_cannot_write_at_its_start_begins_when_it_can(bridge: Bridge) -> None:
    bridge.register("bob", "good")
    bridge.message("bob")

    async def scenario() -> None:
        free = asyncio.Event()

        async def hold() -> None:
            with held(bridge):
                await free.wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        async with bridge.running(Stub("good")) as wait:
            await wait(lambda: bool(bridge.dispatcher._shared._fault))
            free.set()
            await holding
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})

    asyncio.run(scenario())


def test_a_stop_waits_for_storage_no_longer_than_its_grace(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dispatch.loop.GRACE", 0.2)

    async def scenario() -> None:
        with ExitStack() as stack:
            async with asyncio.timeout(20), bridge.running(Stub("good")) as wait:
                bridge.message("bob")
                await wait(lambda: bool(bridge.outcomes()))
                stack.enter_context(held(bridge))

    with pytest.raises(OperationalError, match="database is locked"):
        asyncio.run(scenario())


def test_a_dispatcher_that_never_came_to_write_can_be_stopped(bridge: Bridge) -> None:
    async def scenario() -> None:
        with held(bridge):
            async with asyncio.timeout(20), bridge.running(Stub("good")) as wait:
                await wait(lambda: bool(bridge.dispatcher._shared._fault))

    asyncio.run(scenario())


def test_an_outcome_that_no_database_takes_costs_itself_alone(bridge: Bridge) -> None:
    uids = people(bridge, 50)
    good = Stub("good", lambda token: Delivered("\ud800" if token == "good-u7" else "id"))
    bridge.message(*uids)
    asyncio.run(bridge.run(good, until=lambda: len(bridge.outcomes()) == 50))
    outcomes = bridge.outcomes()
    assert outcomes.pop("u7") == "dead"
    assert bridge.rows()["u7"].reason == "outcome not writable"
    assert set(outcomes.values()) == {"sent"}
    assert len(good.sent) == 50


def test_such_an_outcome_of_a_push_that_waited_is_not_sent_for_ever(bridge: Bridge) -> None:
    bridge.register("bob", "good")
    answers = iter([Retry("503"), Delivered("\ud800")])
    good = Stub("good", lambda _: next(answers))
    bridge.message("bob")
    asyncio.run(bridge.run(good, until=lambda: bridge.outcomes() == {"bob": "dead"}))
    assert len(good.sent) == 2


def test_a_status_call_that_cannot_be_applied_is_set_aside_alone(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = presence.apply

    def failing(known: Any, status: Status, now: int) -> Any:
        if status.uid == "evil":
            raise RuntimeError("a fault of ours")
        return apply(known, status, now)

    monkeypatch.setattr(presence, "apply", failing)
    bridge.register("bob", "good")
    bridge.statuses("bob-0-1-1-1-1")
    bridge.statuses("evil-0-1-1-1-1")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.message("bob")
    asyncio.run(bridge.run(Stub("good"), until=lambda: bridge.outcomes().get("bob") == "sent"))
    letter = bridge.rows()[""]
    assert (letter.outcome, letter.source, letter.reason) == ("dead", "status", FAULT)
    assert letter.message_id < 0


@pytest.fixture
def unplannable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Planning message 1 fails, until what is given is called."""
    plan_new = steps.plan_new
    broken = True

    def failing(batch: Any, *more: Any) -> Any:
        if broken and any(progress.parsed.message.message_id == 1 for progress, _ in batch):
            raise RuntimeError("a fault of ours")
        return plan_new(batch, *more)

    def mend() -> None:
        nonlocal broken
        broken = False

    monkeypatch.setattr(steps, "plan_new", failing)
    monkeypatch.setattr(settling, "EVENT_TRIES", 2)
    return mend


def letters(bridge: Bridge) -> list[Delivery]:
    with bridge.database.read() as connection:
        return deliveries.dead_letters(connection, 10)


def test_a_message_that_cannot_be_planned_becomes_a_dead_letter_that_can_be_tried_again(
    bridge: Bridge, unplannable: Callable[[], None]
) -> None:
    bridge.register("bob", "good")
    bridge.message("bob")

    async def scenario() -> None:
        async with bridge.running(Stub("good")) as wait:
            await wait(lambda: len(letters(bridge)) == 1)
            (letter,) = letters(bridge)
            assert (letter.message_id, letter.uid, letter.reason) == (1, "", FAULT)
            unplannable()
            with bridge.database.write() as connection:
                assert deliveries.retry_dead(connection, letter.id, 1)
            await wait(lambda: bridge.outcomes() == {"bob": "sent"})
        assert letters(bridge) == []

    asyncio.run(scenario())


def test_a_dead_letter_of_such_a_message_that_is_deleted_takes_its_content_along(
    bridge: Bridge, unplannable: Callable[[], None]
) -> None:
    bridge.register("bob", "good")
    bridge.message("bob")
    asyncio.run(bridge.run(Stub("good"), until=lambda: len(letters(bridge)) == 1))
    with bridge.database.write() as connection:
        assert deliveries.forget_dead(connection, letters(bridge)[0].id)
        assert inbox.depth(connection) == {}
        assert inbox.load(connection, range(10)) == {}
    assert bridge.outcomes() == {"": "dead"}, "the trace stays"


def test_a_waiting_push_that_cannot_be_planned_is_given_up_alone(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_due = steps.plan_due

    def failing(rows: Any, *more: Any) -> Any:
        pairs = list(rows)
        if any(row.uid == "u1" for row, _ in pairs):
            raise RuntimeError("a fault of ours")
        return plan_due(pairs, *more)

    monkeypatch.setattr(steps, "plan_due", failing)
    uids = people(bridge, 3)
    tried: set[str] = set()

    def answer(token: str) -> Any:
        first = token not in tried
        tried.add(token)
        return Retry("503") if first else Delivered("id")

    bridge.message(*uids)
    final = {"u0": "sent", "u1": "dead", "u2": "sent"}
    asyncio.run(bridge.run(Stub("good", answer), until=lambda: bridge.outcomes() == final))
    assert [letter.uid for letter in letters(bridge)] == ["u1"]


def test_a_push_that_always_meets_a_fault_of_ours_is_given_up(bridge: Bridge) -> None:
    class Faulty(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            raise RuntimeError("a fault in the provider")

    bridge.register("bob", "good")
    bridge.message("bob")
    asyncio.run(bridge.run(Faulty("good"), until=lambda: bridge.outcomes() == {"bob": "dead"}))
    row = bridge.rows()["bob"]
    assert (row.attempts, row.reason) == (sender.FAULT_TRIES, FAULT)

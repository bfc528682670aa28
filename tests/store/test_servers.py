"""What databases need that several machines share; SQLite shows only that it is asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Connection, Select, event
from sqlalchemy.dialects import postgresql

from app.store import deliveries, dialect, inbox
from app.store.schema import PLANNED
from app.store.schema import events as table
from app.store.turns import FIRST
from tests.store.kit import ME, NOW, OTHER, claim, put, stored, waiting


def test_whatever_may_be_claimed_is_locked_first(db: Connection) -> None:
    selects: list[str] = []

    def note(_db: Connection, statement: object, *_: object) -> None:
        if isinstance(statement, Select):
            selects.append(str(statement.compile(dialect=postgresql.dialect())))  # type: ignore[no-untyped-call]

    stored(db, *(waiting(f"u{n}", channel=n) for n in range(50)))
    event.listen(db, "before_execute", note)
    assert len(deliveries.claim_due(db, "ios", 0, 10, ME, NOW, 1_000, 40)) == 10
    claimed = [said for said in selects if "deliveries.provider_id" in said]
    assert len(claimed) == 2, "the oldest, and the first of each channel"
    assert all(said.endswith("FOR UPDATE SKIP LOCKED") for said in claimed)


def test_a_call_that_another_process_took_meanwhile_is_not_claimed(
    db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(db, *(str(n).encode() for n in range(10)))
    taken, ended = claim(db, OTHER, limit=2)
    db.execute(table.update().where(table.c.id == ended.id).values(owner=None, lease_until=None, state=PLANNED))
    # As it is where the turns were read before the other one committed.
    monkeypatch.setattr(inbox, "first_of_channels", lambda *_: [taken.id, ended.id])
    mine = inbox.claim(db, "normal", 5, 100, ME, NOW, 1_000, FIRST)
    assert [event.body for event in mine] == [b"2", b"3", b"4", b"5", b"6"]


def test_a_connection_to_a_server_is_tried_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialect, "create_engine", lambda _url, **how: how)
    assert cast("dict[str, Any]", dialect.open_engine("mysql+pymysql://host/db", "full"))["pool_pre_ping"] is True


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("postgresql", ["pg_advisory_xact_lock"], []),
        ("mysql", ["GET_LOCK"], ["RELEASE_LOCK"]),
        ("mariadb", ["GET_LOCK"], ["RELEASE_LOCK"]),
        ("sqlite", [], []),
    ],
)
def test_one_process_at_a_time_migrates(name: str, before: list[str], after: list[str]) -> None:
    said: list[str] = []
    connection = SimpleNamespace(dialect=SimpleNamespace(name=name), exec_driver_sql=said.append)

    def work() -> None:
        with dialect.alone(cast("Connection", connection)):
            assert [each.split()[1].split("(")[0] for each in said] == before
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert [each.split()[1].split("(")[0] for each in said] == before + after

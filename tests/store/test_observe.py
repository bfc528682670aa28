"""How long the database takes is told to whoever asks."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from app import metrics
from app.store.dialect import Database, DatabaseError


def test_each_write_is_told_with_its_time_or_as_failed(database: Database) -> None:
    seen: list[float | None] = []
    database.observe = seen.append
    with database.write() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert len(seen) == 1
    assert seen[0] is not None
    assert 0 < seen.pop() < 60
    with pytest.raises(DatabaseError), database.write() as connection:
        connection.exec_driver_sql("SELECT nothing FROM nowhere")
    assert seen == [None]
    with pytest.raises(ZeroDivisionError), database.write():
        raise ZeroDivisionError  # no fault of the database
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert seen == [None]


def test_failures_stand_at_zero_before_the_first(database: Database) -> None:
    observe = metrics.writes("tested")
    failures, count = "pushbridge_store_failures_total", "pushbridge_store_seconds_count"
    labels = {"process": "tested"}
    assert REGISTRY.get_sample_value(failures, labels) == 0
    observe(None)
    observe(0.2)
    assert REGISTRY.get_sample_value(failures, labels) == 1
    assert REGISTRY.get_sample_value("pushbridge_store_seconds_bucket", {**labels, "le": "0.25"}) == 1
    assert REGISTRY.get_sample_value("pushbridge_store_seconds_bucket", {**labels, "le": "0.1"}) == 0
    assert REGISTRY.get_sample_value("pushbridge_store_seconds_sum", labels) == pytest.approx(0.2)
    assert REGISTRY.get_sample_value(count, labels) == 1

from __future__ import annotations

from sqlalchemy import Connection

from app.store import health
from app.store.rows import Health
from tests.store.kit import ME, NOW, OTHER


def test_dispatchers_say_how_they_are_until_they_stop(db: Connection) -> None:
    assert health.beats(db) == []
    first, second = Health(ME, NOW, "{}"), Health(OTHER, NOW, '{"a": "\U0001f600"}')
    health.beat(db, second)
    health.beat(db, first)
    assert health.beats(db) == [first, second]
    health.beat(db, Health(ME, NOW + 9, "{1}"))
    assert health.beats(db) == [Health(ME, NOW + 9, "{1}"), second]
    health.gone(db, ME)
    health.gone(db, ME)
    assert health.beats(db) == [second]


def test_a_dispatcher_that_never_came_back_is_forgotten_after_a_day(db: Connection) -> None:
    health.beat(db, Health(ME, NOW, "{}"))
    health.forget(db, NOW + health.FORGOTTEN)
    assert health.beats(db)
    health.forget(db, NOW + health.FORGOTTEN + 1)
    assert not health.beats(db)

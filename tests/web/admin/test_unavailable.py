"""What is said where the database cannot be used: 503, and nothing of what was sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from app.store import dialect
from tests.web.admin.kit import Api

TOKEN_OF_A_PHONE = "the-token-of-a-phone"
WRITES: list[Callable[[Api], TestResponse]] = [
    lambda api: api.call(
        "PUT", "/users/u/devices/d", body={"provider": "console", "token": TOKEN_OF_A_PHONE, "locale": "en"}
    ),
    lambda api: api.call("PUT", "/users/u/settings", body={"name": "Ann"}),
    lambda api: api.call("DELETE", "/dead-letters/1"),
]


def check(api: Api, write: Callable[[Api], TestResponse], capsys: pytest.CaptureFixture[str], kind: str) -> None:
    answer = write(api)
    assert answer.status_code == 503
    assert answer.get_json() == {"error": {"code": "unavailable", "message": "the database cannot be used"}}
    logged = "".join(capsys.readouterr())
    assert kind in logged
    assert TOKEN_OF_A_PHONE not in logged
    assert "Traceback" not in logged


def test_a_write_that_fails(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    with api.database.write() as connection:
        connection.exec_driver_sql("CREATE TRIGGER no BEFORE INSERT ON devices BEGIN SELECT RAISE(ABORT, 'full'); END")
    check(api, WRITES[0], capsys, "IntegrityError")


@pytest.mark.parametrize("write", WRITES, ids=["device", "settings", "letter"])
def test_a_lock_that_cannot_be_had(
    api: Api,
    tmp_path: Path,
    write: Callable[[Api], TestResponse],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(api.database._lock, "_pid", 0)  # as in a process that was just forked
    (tmp_path / "write.lock").unlink(missing_ok=True)
    (tmp_path / "write.lock").mkdir()
    check(api, write, capsys, "NotLocked")


@pytest.mark.parametrize("write", WRITES, ids=["device", "settings", "letter"])
def test_a_database_that_another_program_holds(
    api: Api,
    tmp_path: Path,
    write: Callable[[Api], TestResponse],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialect, "BUSY", 0)
    api.database.close()
    with closing(sqlite3.connect(tmp_path / "pushbridge.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        check(api, write, capsys, "OperationalError")


def test_reading_is_no_better(api: Api, tmp_path: Path) -> None:
    api.database.close()
    (tmp_path / "pushbridge.db").unlink()
    (tmp_path / "pushbridge.db").mkdir()
    assert api.call("GET", "/users/u/devices").status_code == 503
    assert api.call("GET", "/openapi.json").status_code == 200


def test_the_document_says_so(api: Api) -> None:
    paths = api.call("GET", "/openapi.json").get_json()["paths"]
    for path, operations in paths.items():
        for operation in operations.values():
            assert ("503" in operation["responses"]) == (path != "/admin/v1/openapi.json")

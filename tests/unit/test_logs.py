"""What a log line holds."""

from __future__ import annotations

import json

import pytest
import structlog

from app import logs


def test_a_traceback_is_one_line_without_the_values_of_its_frames(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    logs.configure()
    try:
        _fail("SECRET-token")
    except RuntimeError:
        structlog.get_logger().exception("it failed", action="test")
    finally:
        structlog.configure(**before)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "it failed"
    assert "_fail" in line
    assert "SECRET" not in line


def _fail(token: str) -> None:
    raise RuntimeError(f"a token of {len(token)} characters")

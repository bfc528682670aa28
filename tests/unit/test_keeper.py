"""Dispatchers that cannot be started, and later can."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app import keeper


class Child:
    """A dispatcher that has died, or that lives until it is told to end."""

    def __init__(self, dead: bool) -> None:
        self._ended = threading.Event()
        if dead:
            self._ended.set()

    def wait(self) -> None:
        self._ended.wait()

    def terminate(self) -> None:
        self._ended.set()

    kill = terminate


FULL = BlockingIOError(11, "no more processes")


@pytest.mark.parametrize("before", [[FULL], [Child(dead=True), FULL]], ids=["at the start", "later"])
def test_one_that_cannot_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], before: list[Any]
) -> None:
    started = threading.Event()
    outcomes = [*before, Child(dead=False)]

    def begin(*_: Any, **__: Any) -> Child:
        outcome = outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        if not outcomes:
            started.set()
        return outcome  # type: ignore[no-any-return]

    monkeypatch.setattr(keeper.subprocess, "Popen", begin)
    kept = keeper.Keeper(1, {})
    kept.start()
    assert started.wait(10)
    kept.stop()
    assert "no more processes" in capsys.readouterr().out

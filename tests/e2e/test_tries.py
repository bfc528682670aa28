"""What counts as a push that was sent again although it had been taken."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.tries import check_delivered_once


def request(answered: int | None, connection: int = 1, *, cancelled: bool = False, ignored: bool = False) -> Any:
    named = {"answered": answered, "connection": connection, "cancelled": cancelled, "ignored": ignored}
    return {"fault": "", "stream": 1, "n": 1, **named}


@pytest.mark.parametrize(
    "requests",
    [
        [request(200)],
        [request(None), request(503), request(200)],
        [request(200, cancelled=True), request(200)],
        [request(200, 2), request(None, 1, ignored=True)],
    ],
)
def test_delivered_once(requests: list[Any]) -> None:
    check_delivered_once({("device", "message"): requests})


@pytest.mark.parametrize(
    ("requests", "fault"),
    [
        ([request(None), request(503)], "1 pushes were never taken"),
        ([request(200), request(200)], "1 pushes were sent after a 200"),
        ([request(200), request(None)], "1 pushes were sent after a 200"),
        ([request(200, 2), request(None, 1)], "1 pushes were sent after a 200"),
        ([request(200, 1), request(None, 2, ignored=True)], "1 pushes were sent after a 200"),
        ([request(200, 2), request(None, 1, ignored=True), request(None, 3)], "1 pushes were sent after a 200"),
    ],
)
def test_lost_or_doubled(requests: list[Any], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_delivered_once({("device", "message"): requests})

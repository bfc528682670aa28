"""A fault of the bridge itself: told as what it is, counted, and shown to nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from app.events import STATUS
from tests.web.bridge import Bridge


class Faulty(Bridge):
    def _poke(self) -> None:
        raise RuntimeError("words for the log only")


@pytest.fixture
def faulty(store_folder: Path) -> Iterator[Bridge]:
    bridge = Faulty(store_folder)
    yield bridge
    bridge.database.close()


def count(status: str) -> float:
    return REGISTRY.get_sample_value("pushbridge_webhooks_total", {"event": STATUS, "status": status}) or 0


def test_a_fault_is_a_500_that_says_nothing_of_the_inside(faulty: Bridge) -> None:
    before = count("500"), count("200")
    answer = faulty.post(STATUS, b'["u-0-1-1-1-1"]')
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (500, "internal_error")
    assert "words" not in answer.text
    assert (count("500"), count("200")) == (before[0] + 1, before[1])


def test_an_unknown_path_is_answered_as_json(bridge: Bridge) -> None:
    answer = bridge.client.post("/nothing/here?event=msg.offline", data=b"{}")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")
    assert bridge.depth() == {}

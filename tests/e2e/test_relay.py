"""Other consumers of the same events, which fail in every way there is, while the service fails too."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.consumer import Consumer
from tests.e2e.service import Service, apns_token, offline, until

SECRET = "hunter2-of-a-target"
RETRY = {"first_delay": "50ms", "max_delay": "100ms"}


@pytest.fixture
def consumer() -> Iterator[Callable[..., Consumer]]:
    made: list[Consumer] = []

    def make(secret: str = "") -> Consumer:
        made.append(Consumer(secret))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def post(service: Service, event: str, count: int, start: int = 0) -> list[bytes]:
    """Different bodies of one event, in their order."""
    bodies: list[Any] = [f"{event} {number}" for number in range(start, start + count)]
    if event == "msg.offline":
        bodies = [offline([f"user-{number}"]) for number in range(start, start + count)]
    elif event == "msg.notify":
        bodies = [[offline([]), number] for number in range(start, start + count)]
    elif event == "user.onlinestatus":
        bodies = [[f"relayed-0-{number % 2}-{number}-0-0"] for number in range(start, start + count)]
    assert service.webhooks(event, bodies) == [200] * count
    return [json.dumps(body).encode() for body in bodies]


EVENTS = ("msg.offline", "msg.notify", "user.onlinestatus", "custom.event")


def test_a_target_that_was_down_gets_every_event_once_and_in_order(
    start: Callable[..., Service], consumer: Callable[..., Consumer], standin: StandinProcess
) -> None:
    down, up = consumer(SECRET), consumer().start()
    service = start(retry=RETRY, relay=[{"url": down.url, "secret": SECRET, "timeout": "300ms"}, {"url": up.url}])
    service.register("phone", apns_token(0x5E))
    sent: dict[str, list[bytes]] = {event: [] for event in EVENTS}

    def happens() -> None:
        """Events come, and a push and the other target have them at once."""
        for event in EVENTS:
            bodies = post(service, event, 3, start=len(sent[event]))
            sent[event] += bodies
            assert service.webhook(event, bodies[-1]) == 200  # a repeat
        message = offline(["phone"])
        assert service.webhook("msg.offline", message) == 200
        sent["msg.offline"].append(json.dumps(message).encode())
        service.outcome(message["message_id"], "phone", "sent")
        until(lambda: up.taken() == sent, "the other target has everything")

    happens()
    [(name, waiting)] = service.admin("GET", "/stats")["relay"].items()
    assert name.startswith(f"127.0.0.1:{down.port}/")
    assert waiting["depth"] == sum(map(len, sent.values()))
    down.status = 500
    down.start()
    until(lambda: down.tries(500), "it answers 500")
    happens()
    down.status = 204
    until(lambda: down.tries(204), "it answers 204")
    down.status = None
    until(lambda: down.tries(None) >= len(EVENTS), "it hangs")
    happens()
    assert down.taken() == {}
    down.status = 200
    until(lambda: not service.admin("GET", "/stats")["relay"], "nothing waits any more")

    assert down.taken() == up.taken() == sent
    assert {header["content-type"] for header in down.headers} == {"application/json"}
    assert all(header["authorization"].startswith("Basic ") for header in down.headers)
    assert not any("authorization" in header for header in up.headers)
    assert all(query == {"token": [SECRET]} for query in down.queries)
    metrics = service.request("GET", "/metrics")[1].decode()
    assert f'pushbridge_relayed_total{{event="other",target="{name}"}} 9.0' in metrics
    assert SECRET not in service.output.read_text() + metrics + json.dumps(service.admin("GET", "/stats"))


@pytest.mark.soak
def test_a_kill_doubles_no_event_but_the_one_under_way(
    start: Callable[..., Service], consumer: Callable[..., Consumer], soak: bool
) -> None:
    """`kill -9` of the dispatcher, and now and then of everything, at random moments."""
    kills, each = (40, 800) if soak else (1, 40)
    target = consumer().start()
    target.seconds = 0.005
    service = start(retry=RETRY, relay=[{"url": target.url}], server={"workers": 1})
    sent = {event: post(service, event, each) for event in EVENTS}
    chance = random.Random(9)
    for kill in range(kills):
        at = len(target.seen) + chance.randrange(1, 2 * each // kills)
        until(lambda at=at: len(target.seen) >= at or not service.admin("GET", "/stats")["relay"], "some are passed on")
        if kill % 4 == 0:
            service.kill()
            service.start()
        else:
            os.kill(service.dispatcher(), signal.SIGKILL)
    until(lambda: not service.admin("GET", "/stats")["relay"], "nothing waits any more", 120)
    taken = target.taken()
    for event in EVENTS:
        once = [body for body, _ in groupby(taken[event])]
        assert once == sent[event], "each at least once, and a repeat right after its first"
        assert len(taken[event]) - len(once) <= kills

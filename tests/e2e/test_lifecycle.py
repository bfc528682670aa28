"""Processes that end: nothing accepted is lost, nothing is left behind. What `kill -9` does is in test_crash.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until

PHONES = 20


def fill(service: Service, messages: int) -> list[int]:
    """Accepted messages, each for one of twenty phones."""
    service.register_many(
        [
            {"uid": f"crash-{n}", "device_id": "phone", "provider": "ios", "token": apns_token(0x50_0000 + n)}
            for n in range(PHONES)
        ]
    )
    bodies = [offline([f"crash-{n % PHONES}"]) for n in range(messages)]
    assert service.webhooks("msg.offline", bodies) == [200] * messages
    return [body["message_id"] for body in bodies]


def check_all_were_sent(service: Service, standin: StandinProcess, message_ids: list[int]) -> None:
    """Every recipient was sent to at least once, and whatever was repeated carries the ids of the first time."""
    until(service.is_idle, "nothing waits any more", 60)
    outcomes = {record["message_id"]: record["outcome"] for record in service.records()}
    assert {outcomes[str(message_id)] for message_id in message_ids} == {"sent"}
    seen: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for request in standin.requests(server="apns"):
        headers = dict(request["headers"])
        seen[headers["apns-collapse-id"]].add((request["device"], headers["apns-id"]))
    assert seen.keys() == {str(message_id) for message_id in message_ids}
    assert all(len(ids) == 1 for ids in seen.values())


CORES = os.sched_getaffinity(0) if sys.platform == "linux" else set()


def cores_of_threads(pid: int) -> set[frozenset[int]]:
    return {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir(f"/proc/{pid}/task")}


@pytest.mark.skipif(len(CORES) < 2, reason="needs Linux with two cores")
def test_a_dispatcher_stays_on_one_core(service: Service) -> None:
    service.register("core", apns_token(0x53))
    service.outcome(service.offline(["core"]), "core", "sent")  # the threads that send and write are there by now
    (core,) = cores_of_threads(service.dispatcher())
    assert len(core) == 1
    assert core < CORES


def test_a_killed_dispatcher_is_back_within_two_seconds(service: Service) -> None:
    first = service.dispatcher()
    os.kill(first, signal.SIGKILL)
    until(lambda: service.dispatcher() != first, "another dispatcher runs", 2)


@pytest.mark.skipif(len(CORES) < 2, reason="needs Linux with two cores")
def test_a_dispatcher_that_is_not_pinned_uses_every_core(start: Callable[..., Service]) -> None:
    service = start(dispatcher={"pin": False})
    assert cores_of_threads(service.dispatcher()) == {frozenset(CORES)}


def test_sigterm_leaves_no_process_and_loses_nothing(start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start()
    first = fill(service, 1)
    service.outcome(first[0], "crash-0", "sent")
    standin.hold("apns")
    message_ids = first + fill(service, 500)
    standin.wait(1 + PHONES, server="apns")
    standin.release("apns")
    assert service.stop() == 0
    assert service.pids() == []
    service.start()
    check_all_were_sent(service, standin, message_ids)


def test_a_killed_master_takes_its_dispatcher_with_it(start: Callable[..., Service]) -> None:
    service = start()
    assert service.process is not None
    service.process.kill()
    service.process.wait()
    until(lambda: service.pids() == [], "no process is left")


def test_a_dispatcher_by_itself(start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start(dispatcher={"embedded": False}, ready="/healthz")
    assert service.request("GET", "/readyz")[0] == 503
    service.register("alone", apns_token(0x52))
    message_id = service.offline(["alone"])
    environ = {**os.environ, "PUSHBRIDGE_CONFIG": str(service.folder / "config.yaml")}
    read, write = os.pipe()
    os.close(read)  # whoever took its log is gone, which must not end it
    alone = subprocess.Popen([sys.executable, "-m", "app.cli", "dispatch"], env=environ, stderr=write)
    os.close(write)
    try:
        service.outcome(message_id, "alone", "sent")
        assert service.request("GET", "/readyz")[0] == 200
    finally:
        alone.terminate()
        assert alone.wait(20) == 0

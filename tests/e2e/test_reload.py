"""Reloads and upgrades under load: every call is answered 200, and every message is delivered, once."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until

PHONES = 20


class Poster(threading.Thread):
    """Posts messages one after another until `stop`, as v2 does over one kept connection, or as v3 over new ones.

    posted: the ids of the messages that were answered 200. faults: what else came of a call.
    """

    def __init__(self, port: int, keeps: bool) -> None:
        super().__init__()
        self.posted: list[int] = []
        self.faults: list[str] = []
        self._keeps = keeps
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.005):
            body = offline([f"reload-{len(self.posted) % PHONES}"])
            try:
                status, said = self._post(json.dumps(body).encode())
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(repr(error))
                self._connection.close()
                continue
            if status == 200:
                self.posted.append(body["message_id"])
            else:
                self.faults.append(f"{status} {said!r}")

    def _post(self, body: bytes) -> tuple[int, bytes]:
        self._leave_a_closed_one()
        self._connection.request("POST", "/webhook?event=msg.offline", body)
        answer = self._connection.getresponse()
        said = answer.read()
        if not self._keeps:
            self._connection.close()
        return answer.status, said

    def _leave_a_closed_one(self) -> None:
        """A kept connection that the server has closed meanwhile is no fault; Go's client sees it before it writes."""
        if self._connection.sock is not None and select.select([self._connection.sock], [], [], 0)[0]:
            self._connection.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        self._connection.close()


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def workers(master: int) -> set[int]:
    def is_worker(pid: int) -> bool:
        try:
            return b"app.cli" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return set(filter(is_worker, children(master)))


def are_gone(pids: set[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def reload(service: Service, master: int) -> None:
    """SIGHUP; returns when nothing but the master is left of what ran before, and others work."""
    before, logged = children(master), len(service.output.read_text())
    os.kill(master, signal.SIGHUP)
    until(lambda: are_gone(before), "the old workers and the old dispatcher are gone")
    handed_over = re.findall("waits for slot|dispatcher stopped", service.output.read_text()[logged:])
    assert handed_over == ["waits for slot", "dispatcher stopped"]  # the old one works while the new one loads
    until(lambda: len(workers(master)) == 2 and service.ready(), "new ones work")


BROKEN = ["server: [unclosed", "unheard_of: 1\n", "providers: [1]\n", "providers: {x: 5}\n", f"a: {'1' * 5_000}\n"]


def reload_with_a_fault(service: Service, master: int, broken: str) -> None:
    """SIGHUP while the file is no configuration: other workers, with what was read before."""
    good, said = service.config.read_text(), service.output.read_text().count("not reloaded")
    dispatcher, before = service.dispatcher(), workers(master)
    service.config.write_text(broken)
    os.kill(master, signal.SIGHUP)
    until(lambda: are_gone(before), "the old workers are gone")
    until(lambda: len(workers(master)) == 2 and service.ready(), "new ones work")
    died = min(workers(master))
    os.kill(died, signal.SIGTERM)
    until(lambda: are_gone({died}), "one dies meanwhile")
    until(lambda: len(workers(master)) == 2 and service.ready(), "it is replaced")
    assert service.dispatcher() == dispatcher
    assert service.output.read_text().count("not reloaded") == said + 1
    service.config.write_text(good)


def upgrade(service: Service) -> int:
    """SIGUSR2, and SIGTERM to the old master as soon as the new one has workers; the new one's process id."""
    assert service.process is not None
    old = service.process.pid
    before = children(old)
    os.kill(old, signal.SIGUSR2)
    (new,) = until(lambda: children(old) - before, "there is another master")
    until(lambda: len(workers(new)) == 2, "its workers are there")
    service.process.terminate()
    assert service.process.wait(30) == 0
    until(lambda: are_gone(before) and service.ready(), "the new ones work alone")
    return int(new)


def calls_counted(service: Service) -> float:
    """By all workers that there ever were."""
    families = parse(service.request("GET", "/metrics")[1].decode())
    samples = (sample for family in families for sample in family.samples)
    wanted = {"event": "msg.offline", "status": "200"}
    return sum(s.value for s in samples if s.name == "pushbridge_webhooks_total" and s.labels == wanted)


@pytest.mark.soak
def test_reloads_and_an_upgrade_under_load(start: Callable[..., Service], standin: StandinProcess, soak: bool) -> None:
    service = start()
    assert service.process is not None
    service.register_many(
        [
            {"uid": f"reload-{n}", "device_id": "phone", "provider": "ios", "token": apns_token(0x54_0000 + n)}
            for n in range(PHONES)
        ]
    )
    posters = [Poster(service.port, keeps) for keeps in (True, False) * (4 if soak else 1)]
    for poster in posters:
        poster.start()
    try:
        for _ in range(3 if soak else 1):
            reload(service, service.process.pid)
        other_address = service.config.read_text().replace(f"127.0.0.1:{service.port}", "192.0.2.1:80")
        broken_ones = [*BROKEN, other_address] if soak else BROKEN[:1]
        for broken in broken_ones:
            reload_with_a_fault(service, service.process.pid, broken)
        master = upgrade(service)
        if soak:
            reload(service, master)
    finally:
        for poster in posters:
            poster.stop()
    assert [poster.faults for poster in posters] == [[]] * len(posters)
    assert all(poster.posted for poster in posters)
    posted = [str(message_id) for poster in posters for message_id in poster.posted]
    assert calls_counted(service) == len(posted)
    until(service.is_idle, "nothing waits any more", 60)
    pushes = Counter(dict(request["headers"])["apns-collapse-id"] for request in standin.requests(server="apns"))
    assert pushes == Counter(posted)
    logged = [json.loads(line) for line in service.output.read_text().splitlines()]  # gunicorn's lines too
    assert {"gunicorn.error", None} == {line.get("logger") for line in logged}
    wrong = [line["action"] for line in logged if line["level"] in ("error", "critical")]
    assert wrong == ["reload"] * len(broken_ones)

"""However many events are queued, the processes stay as small as they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.clock import now_ms
from app.store import inbox
from app.store.opening import open_database
from tests.e2e.service import Service, apns_token, offline, until

FEW, MANY = 10_000, 1_000_000
USERS, CHANNELS = 1_000, 5_000
DRAINED = 5_000
TOGETHER = 20_000
"""Events that are put in with one transaction."""


def fill(data: Path, count: int) -> None:
    """Queue events as the intake does, without the way there."""
    body = offline(["u0"])
    with closing(open_database(data, durability="normal")) as database:
        for start in range(0, count, TOGETHER):
            with database.write() as connection:
                inbox.put(connection, [arrival(n, body) for n in range(start, min(count, start + TOGETHER))])


def arrival(number: int, body: dict[str, Any]) -> inbox.Arrival:
    message_id = 2_060_000_000_000_000_000 + number
    changed = {"message_id": message_id, "message_idstr": str(message_id), "to_uids": [f"u{number % USERS}"]}
    raw = json.dumps(body | changed).encode()
    return inbox.Arrival("msg.offline", raw, now_ms(), "normal", 1, True, number % CHANNELS)


def peak(pid: int) -> int:
    """The most memory that a process ever had, in MB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) >> 10


def use(service: Service) -> None:
    """All that web workers do, all their threads at once."""

    def turn(number: int) -> None:
        # The disk may be late while thousands are settled: that is 503.
        assert service.webhook("msg.offline", offline([f"u{number}"])) in (200, 503)
        assert service.request("GET", "/metrics")[0] == 200
        service.trace(uid=f"u{number}")

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(turn, range(24)))
    service.admin("GET", "/stats")


def drain(service: Service, pushes: int) -> int:
    """Have a dispatcher send so many; the most memory that it had."""
    environ = {**os.environ, "PUSHBRIDGE_CONFIG": str(service.config)}
    command = [sys.executable, "-m", "app.cli", "dispatch"]
    with (service.folder / "pushes.log").open("wb") as output:
        dispatcher = subprocess.Popen(command, env=environ, stdout=output, stderr=output)
    try:
        until(lambda: sent(service) >= pushes, f"{pushes} are sent", 60)
        use(service)
        return peak(dispatcher.pid)
    finally:
        dispatcher.send_signal(signal.SIGKILL)
        dispatcher.wait()


def sent(service: Service) -> int:
    ((count,),) = service.query("SELECT count(*) FROM deliveries WHERE outcome = 'sent'")
    return int(count)


def peaks(service: Service, count: int) -> tuple[int, int]:
    """The most memory of a web worker and of a dispatcher, in MB, with so many events queued."""
    fill(service.data, count)
    service.register_many(
        [{"uid": f"u{n}", "device_id": "d", "provider": "console", "token": apns_token(n)} for n in range(USERS)]
    )
    use(service)
    dispatcher = drain(service, DRAINED)
    return max(map(peak, service.workers())), dispatcher


@pytest.mark.soak
def test_a_million_queued_events_take_no_memory(start: Callable[..., Service], soak: bool) -> None:
    if not soak:
        pytest.skip("has a long form only")
    console = {"console": {"type": "console"}}
    (few, few_sending), (many, many_sending) = (
        peaks(start(ready="/healthz", dispatcher={"embedded": False}, providers=console), count)
        for count in (FEW, MANY)
    )
    print(f"web worker {few} and {many} MB, dispatcher {few_sending} and {many_sending} MB")
    # What may grow is what each connection keeps of the database, up to its bound.
    assert many < few + 80
    assert many < 200
    assert many_sending < few_sending + 150
    assert many_sending < 300

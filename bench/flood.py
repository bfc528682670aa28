"""What a group's flood costs a message to a person: from the webhook to APNs, when idle and when 100,000 are queued."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

from msgspec import Struct

from app.clock import now_ms
from app.demo.service import Service
from app.model import Device
from bench import bridge
from bench.nginx import WATCHED, Nginx

MESSAGES, MEMBERS = 200, 500
IDLE = 40
"""Messages to the person while nothing else is sent, before the flood and after it."""
EVERY = 0.05
LEAST_LEFT = 0.1
"""Share of the flood that must still be queued for a message to count."""
MOST = 3.0
_LEFT = "SELECT count(*) FROM events"


class Result(Struct, frozen=True):
    """Milliseconds that the messages to the person took."""

    idle: list[float]
    flooded: list[float]

    @property
    def ratio(self) -> float:
        return median(self.flooded) / median(self.idle)

    @property
    def is_good(self) -> bool:
        return self.ratio <= MOST

    def __str__(self) -> str:
        return (
            f"Flood: a person's message is at APNs after {median(self.idle):.1f} ms when idle (median of"
            f" {len(self.idle)}), after {median(self.flooded):.1f} ms while {MESSAGES * MEMBERS:,} pushes to a group"
            f" are queued (median of {len(self.flooded)}): {self.ratio:.1f} times (at most {MOST:.0f} is wanted)"
        )


def run(folder: Path, nginx: Nginx) -> Result:
    folder.mkdir()
    service = Service(folder, {"providers": {"phone": bridge.apns(folder, nginx)}}, token="bench")  # noqa: S106
    members = {f"user-{n}": f"{n:064x}" for n in range(MEMBERS)}
    phones = {"friend": WATCHED} | members
    bridge.register(service, (Device(uid, "phone", "phone", token, now_ms()) for uid, token in phones.items()))
    bodies = [bridge.message(bridge.FIRST_ID + n, list(members), channel_id="flood") for n in range(MESSAGES)]
    with service:
        person = _Person(service, nginx)
        person.latency()  # connections are opened and tokens made: no message is to pay for that
        idle = person.latencies(IDLE // 2)
        flooded = _under(service, bodies, person)
        _drained(service)
        return Result(idle + person.latencies(IDLE // 2), flooded)


class _Person:
    """Sends messages to the watched iPhone one after another."""

    def __init__(self, service: Service, nginx: Nginx) -> None:
        self._service = service
        self._nginx = nginx
        self._number = bridge.FIRST_ID - 1_000_000
        self._seen = 0

    def latency(self) -> float:
        """Milliseconds from the call of the webhook to the request at APNs."""
        self._number += 1
        body = bridge.message(self._number, ["friend"], channel_id="friend", channel_type=1)
        started = time.time()
        bridge.post_all(self._service.port, [body], [])
        deadline = started + bridge.LONGEST
        while len(times := self._nginx.watched_times()) == self._seen:
            self._service.check()
            if time.time() > deadline:
                raise RuntimeError(f"a message to a person got stuck: {self._service.output()}")
            time.sleep(0.001)
        self._seen = len(times)
        return 1000 * (times[-1] - started)

    def latencies(self, count: int) -> list[float]:
        found = []
        for _ in range(count):
            found.append(self.latency())
            time.sleep(EVERY)
        return found


def _under(service: Service, bodies: list[bytes], person: _Person) -> list[float]:
    """What the person's messages take from when all of the flood has been posted until most of it has gone out."""
    with ThreadPoolExecutor(bridge.POSTERS) as threads:
        posting = [
            threads.submit(bridge.post_all, service.port, bodies[share :: bridge.POSTERS], [])
            for share in range(bridge.POSTERS)
        ]
        for future in posting:
            future.result()
    found: list[float] = []
    while True:
        took = person.latency()
        if _left(service) < LEAST_LEFT * MESSAGES:
            break
        found.append(took)
        time.sleep(EVERY)
    if len(found) < 10:
        raise RuntimeError(f"the flood was over after {len(found)} messages: too few to compare")
    return found


def _drained(service: Service) -> None:
    deadline = time.monotonic() + bridge.LONGEST
    while _left(service):
        service.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"the flood does not end: {service.output()}")
        time.sleep(0.1)


def _left(service: Service) -> int:
    """Messages that have pushes yet to be sent."""
    file = service.data_dir / "pushbridge.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return int(connection.execute(_LEFT).fetchone()[0])

"""The whole bridge under load: real gunicorn and dispatcher, from the first webhook to the last row of the trace."""

from __future__ import annotations

import base64
import http.client
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec import Struct

from app import bootstrap, config
from app.clock import now_ms
from app.demo.certs import write_apns_key, write_service_account
from app.demo.service import Service, ServiceFailed
from app.model import Device
from app.store import devices
from bench import processes
from bench.nginx import Nginx

POSTERS = 4
"""Connections that webhooks come over at once."""
STATUS_EVERY = 0.05
LONGEST = 60.0
TEXT = "See you at the station at half past seven"
_NEWEST = "SELECT max(id) FROM deliveries"
_WAITING = "SELECT 1 FROM deliveries WHERE due_at IS NOT NULL LIMIT 1"
FIRST_ID = 2_069_123_456_789_000_000


class Result(Struct, frozen=True, kw_only=True):
    """cpu: microseconds of the dispatcher a push. memory: its peak in MB. answers: seconds that webhooks took."""

    pushes: int
    seconds: float
    cpu: float
    server_cpu: float
    memory: float
    answers: list[float]

    @property
    def rate(self) -> float:
        return self.pushes / self.seconds

    def answer_ms(self, share: float) -> float:
        ordered = sorted(self.answers)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def apns(folder: Path, nginx: Nginx) -> dict[str, Any]:
    """A block of `providers:`."""
    write_apns_key(folder / "AuthKey.p8")
    block = {"type": "apns", "key_file": "AuthKey.p8", "key_id": "ABC1234567", "team_id": "DEF1234567"}
    return {**block, "topic": "com.example.chat", "endpoint": nginx.url, "ca_file": str(nginx.ca_file)}


def fcm(folder: Path, nginx: Nginx) -> dict[str, Any]:
    """A block of `providers:`."""
    write_service_account(folder / "firebase.json", "example-chat", f"{nginx.url}/token")
    block = {"type": "fcm", "service_account_file": "firebase.json"}
    return {**block, "endpoint": nginx.url, "ca_file": str(nginx.ca_file)}


def run(
    folder: Path,
    nginx: Nginx,
    provider: Callable[[Path, Nginx], dict[str, Any]],
    webhooks: int,
    recipients: int,
) -> Result:
    """Send `webhooks` messages to `recipients` users each, each with one phone, through a fresh bridge."""
    folder.mkdir()
    service = Service(folder, {"providers": {"phone": provider(folder, nginx)}}, token="bench")  # noqa: S106
    register(
        service, (Device(f"user-{n}", "phone", "phone", f"{n:064x}", now_ms()) for n in range(webhooks * recipients))
    )
    with service:
        load = _Load(service, webhooks, recipients)
        load.warm_up()
        return load.measure(processes.find("dispatch", f"PUSHBRIDGE_CONFIG={service.config_file}"), nginx.pid)


def register(service: Service, phones: Iterable[Device]) -> None:
    """Put devices into the store of a service that has not been started."""
    with closing(bootstrap.open_store(config.load(service.config_file))) as database, database.write() as connection:
        for phone in phones:
            devices.put(connection, phone)


def post_all(port: int, bodies: Sequence[bytes], answers: list[float]) -> None:
    """Post messages over one connection, and how many seconds each was answered in."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for body in bodies:
        post(connection, "msg.offline", body, answers)
    connection.close()


def post(connection: http.client.HTTPConnection, event: str, body: bytes, answers: list[float]) -> None:
    started = time.monotonic()
    connection.request("POST", f"/webhook?event={event}", body)
    answer = connection.getresponse()
    answer.read()
    answers.append(time.monotonic() - started)
    if answer.status != http.client.OK:
        raise RuntimeError(f"the webhook was answered with {answer.status}")


class _Load:
    def __init__(self, service: Service, webhooks: int, recipients: int) -> None:
        self._service = service
        self._port = service.port
        self._file = service.data_dir / "pushbridge.db"
        self._webhooks = webhooks
        self._recipients = recipients
        self._answers: list[float] = []
        self._done = threading.Event()

    def warm_up(self) -> None:
        """One push, so that connections are open and tokens are made: neither is paid a push."""
        self._post_all([message(FIRST_ID, ["user-0"])])
        self._wait_for(1, time.monotonic() + LONGEST)
        self._answers.clear()

    def measure(self, dispatcher: int, server: int) -> Result:
        size = self._recipients
        bodies = [
            message(FIRST_ID + 1 + number, [f"user-{number * size + i}" for i in range(size)])
            for number in range(self._webhooks)
        ]
        pushes = self._webhooks * size
        cpu, server_cpu = processes.cpu_seconds(dispatcher), processes.cpu_seconds(server)
        started = time.monotonic()
        with ThreadPoolExecutor(POSTERS + 1) as threads:
            presence = threads.submit(self._post_statuses)
            posting = [threads.submit(self._post_all, bodies[share::POSTERS]) for share in range(POSTERS)]
            try:
                self._wait_for(1 + pushes, started + LONGEST)
                seconds = time.monotonic() - started
            finally:
                self._done.set()
            for future in (presence, *posting):
                future.result()
        return Result(
            pushes=pushes,
            seconds=seconds,
            cpu=1e6 * (processes.cpu_seconds(dispatcher) - cpu) / pushes,
            server_cpu=1e6 * (processes.cpu_seconds(server) - server_cpu) / pushes,
            memory=processes.peak_megabytes(dispatcher),
            answers=self._answers,
        )

    def _post_all(self, bodies: list[bytes]) -> None:
        post_all(self._port, bodies, self._answers)

    def _post_statuses(self) -> None:
        """What else comes in while pushes go out: people who go online and offline, until `_done`."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        number = 0
        while not self._done.wait(STATUS_EVERY):
            number += 1
            online = number % 2
            status = f"someone-{number // 2 % 1000}-0-{online}-{number}-{online}-{online}"
            post(connection, "user.onlinestatus", json.dumps([status]).encode(), self._answers)
        connection.close()

    def _wait_for(self, rows: int, deadline: float) -> None:
        """Return when so many pushes have an outcome; raises where one of them is not `sent`."""
        with closing(sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)) as connection:
            # Two questions that an index answers at once; all rows are counted only at the end.
            while (connection.execute(_NEWEST).fetchone()[0] or 0) < rows or connection.execute(_WAITING).fetchone():
                self._check(deadline)
                time.sleep(0.01)
            outcomes = dict(connection.execute("SELECT outcome, count(*) FROM deliveries GROUP BY outcome").fetchall())
        if outcomes != {"sent": rows}:
            raise RuntimeError(f"not all were sent: {outcomes}")

    def _check(self, deadline: float) -> None:
        self._service.check()
        if time.monotonic() > deadline:
            raise ServiceFailed(f"the bridge does not get on: {self._service.output()}")


def message(message_id: int, to: list[str], **more: Any) -> bytes:
    """A body of msg.offline, to a group unless `more` says otherwise."""
    payload = base64.b64encode(json.dumps({"type": 1, "content": TEXT}).encode()).decode()
    document = {
        "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
        "setting": 0,
        "expire": 0,
        "message_id": message_id,
        "message_idstr": str(message_id),
        "client_msg_no": f"c-{message_id}",
        "message_seq": 1,
        "from_uid": "ann",
        "channel_id": "room-1",
        "channel_type": 2,
        "timestamp": int(time.time()),
        "payload": payload,
        "to_uids": to,
        **more,
    }
    return json.dumps(document).encode()

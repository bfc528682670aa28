"""The whole service as real processes, driven through sockets only."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import yaml

from app.demo.standin import StandinProcess
from tests.processes import stat

ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> Any:
    """Wait for something that only another process can bring about; its value once it is true."""
    began = time.monotonic()
    pause = threading.Event()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        pause.wait(min(0.02 + waited / 20, 0.1))  # to look costs that other process time as well


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_dispatcher(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"app.cli" in command and b"dispatch" in command


def payload(document: Any) -> str:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    return base64.b64encode(raw).decode()


_ids = iter(range(2_069_123_456_789_012_345, 2**63))


def offline(to: list[str], *, text: str = "hello", sender: str = "sender", **more: Any) -> dict[str, Any]:
    """A body of msg.offline as v2 builds it, under a message id of its own."""
    message_id = more.pop("message_id", None) or next(_ids)
    return {
        "header": {"no_persist": 0, "red_dot": 1, "sync_once": 0},
        "setting": 0,
        "expire": 0,
        "message_id": message_id,
        "message_idstr": str(message_id),
        "client_msg_no": "c1",
        "message_seq": 7,
        "from_uid": sender,
        "channel_id": to[0] if to else "",
        "channel_type": 1,
        "timestamp": int(time.time()),
        "payload": payload({"type": 1, "content": text}),
        "to_uids": to,
        "source_id": 1,
        **more,
    }


def apns_token(number: int) -> str:
    return f"{number:064x}"


def _config(port: int, standin: StandinProcess) -> dict[str, Any]:
    return {
        "server": {"bind": f"127.0.0.1:{port}"},
        "admin": {"token": "admin-token"},
        "retry": {"first_delay": "100ms", "max_delay": "1s"},
        "presence": {"hold": "500ms"},
        "providers": {
            "ios": {
                "type": "apns",
                "endpoint": standin.apns,
                "ca_file": standin.ca_file,
                "key_file": standin.key_file,
                "key_id": standin.key_id,
                "team_id": standin.team_id,
                "topic": standin.topic,
                "timeout": "10s",
            },
            "android": {
                "type": "fcm",
                "endpoint": standin.fcm,
                "ca_file": standin.ca_file,
                "service_account_file": standin.service_account_file,
            },
        },
    }


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        merged[key] = _merged(old.get(key, {}), value) if isinstance(value, dict) else value
    return merged


class Service:
    """One gunicorn with its dispatcher, on a data folder of its own."""

    def __init__(
        self,
        folder: Path,
        standin: StandinProcess,
        ready: str = "/readyz",
        config: Path | None = None,
        environ: dict[str, str] | None = None,
        under: tuple[str, ...] = (),
        **sections: Any,
    ) -> None:
        """`ready`: what answers 200 when it has started. `config`: a file to take as it is; else sections change.

        under: a command that runs gunicorn's command for us.
        """
        self._ready = ready
        self._under = under
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.output = folder / "output.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._environ = {"PUSHBRIDGE_BIND": f"127.0.0.1:{self.port}", **(environ or {})}
        self.config = config or folder / "config.yaml"
        if config is None:
            changed = _merged(_config(self.port, standin), sections)
            self.config.write_text(yaml.safe_dump(changed))

    def start(self) -> Service:
        environ = {**os.environ, "PUSHBRIDGE_CONFIG": str(self.config), **self._environ}
        environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*self._under, sys.executable, "-m", "gunicorn", "wsgi:app"],
                cwd=ROOT,
                env=environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: self.ready() or self._died(), "the service is ready")
        return self

    def _died(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"gunicorn ended: {self.output.read_text()}")
        return False

    def ready(self) -> bool:
        try:
            return self.request("GET", self._ready)[0] == 200
        except OSError:
            return False

    def stop(self) -> int:
        """SIGTERM to gunicorn, and its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """kill -9 to every process of the service at once."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def pids(self) -> list[int]:
        """The live processes of the service: its session is its own."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    state, _, _, session = stat(entry)
                    if int(session) == self.process.pid and state != "Z":
                        found.append(int(entry.name))
        return found

    def dispatcher(self) -> int:
        """The dispatcher's process id; waits until there is one."""
        return int(until(lambda: next(filter(is_dispatcher, self.pids()), None), "a dispatcher runs"))

    def workers(self) -> list[int]:
        """The process ids of the web workers that are up."""
        assert self.process is not None
        found = []
        for pid in self.pids():
            with suppress(OSError):
                if int(stat(Path(f"/proc/{pid}"))[1]) == self.process.pid and not is_dispatcher(pid):
                    found.append(pid)
        return found

    def query(self, sql: str) -> list[Any]:
        """Ask the database itself, as a reader that neither makes nor clears anything when it comes and goes."""
        with closing(sqlite3.connect(f"file:{self.data}/pushbridge.db?mode=ro", uri=True)) as database:
            return database.execute(sql).fetchall()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def webhook(self, event: str, body: Any, path: str = "/webhook") -> int:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, answer = self.request("POST", f"{path}?event={event}", raw, {"Content-Type": "application/json"})
        assert status != 200 or answer == b""
        return status

    def webhooks(self, event: str, bodies: list[Any]) -> list[int]:
        """Many calls over one connection; their statuses."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        statuses = []
        for body in bodies:
            connection.request("POST", f"/webhook?event={event}", json.dumps(body).encode())
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        return statuses

    def is_idle(self) -> bool:
        """Whether nothing waits to be planned, sent or tried again."""
        try:
            stats = self.admin("GET", "/stats")
        except OSError:
            return False
        return not stats["pending"] and not any(lane["depth"] for lane in stats["queue"].values())

    def records(self) -> Iterator[dict[str, Any]]:
        """The whole trace, page by page."""
        return self._pages("/trace", "records")

    def dead_letters(self) -> Iterator[dict[str, Any]]:
        return self._pages("/dead-letters", "dead_letters")

    def _pages(self, path: str, name: str) -> Iterator[dict[str, Any]]:
        before = {}
        while True:
            page = self.admin("GET", f"{path}?{urlencode({'limit': 1000, **before})}")
            yield from page[name]
            if not page.get("next"):
                return
            before = {"before": page["next"]}

    def offline(self, to: list[str], **more: Any) -> int:
        """Post msg.offline; the message id."""
        body = offline(to, **more)
        assert self.webhook("msg.offline", body) == 200
        return int(body["message_id"])

    def statuses(self, *statuses: str) -> None:
        assert self.webhook("user.onlinestatus", list(statuses)) == 200

    def online(self, uid: str) -> bool:
        return bool(self.admin("GET", f"/users/{quote(uid, safe='')}/presence")["online"])

    def admin(self, method: str, path: str, body: Any = None, expect: tuple[int, ...] = (200, 201, 204)) -> Any:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        status, answer = self.request(
            method, f"/admin/v1{path}", raw, {"Authorization": "Bearer admin-token", "Content-Type": "application/json"}
        )
        assert status in expect, (status, answer)
        return json.loads(answer) if answer else None

    def register(self, uid: str, token: str, provider: str = "ios", device_id: str = "phone") -> None:
        path = f"/users/{quote(uid, safe='')}/devices/{quote(device_id, safe='')}"
        self.admin("PUT", path, {"provider": provider, "token": token})

    def register_many(self, devices: list[dict[str, Any]]) -> None:
        for start in range(0, len(devices), 1_000):
            some = devices[start : start + 1_000]
            answer = self.admin("POST", "/devices/import", b"\n".join(json.dumps(device).encode() for device in some))
            assert answer["imported"] == len(some), answer

    def devices(self, uid: str) -> list[dict[str, Any]]:
        return list(self.admin("GET", f"/users/{quote(uid, safe='')}/devices")["devices"])

    def trace(self, **query: Any) -> list[dict[str, Any]]:
        return list(self.admin("GET", f"/trace?{urlencode(query)}")["records"])

    def outcome(self, message_id: int, uid: str, *wanted: str, seconds: float = 15.0) -> dict[str, Any]:
        """The first record of this message and user whose outcome is one of these; waits for it."""

        def find() -> dict[str, Any] | None:
            for record in self.trace(message_id=message_id, uid=uid):
                if record["outcome"] in wanted:
                    return record
            return None

        try:
            return dict(until(find, f"{wanted} for {uid}", seconds))
        except AssertionError as error:
            raise AssertionError(f"{error}; trace: {self.trace(message_id=message_id, uid=uid)}") from None

    def pushes(self, standin: StandinProcess, message_id: int) -> list[dict[str, Any]]:
        """What the vendors saw of this message."""
        return [r for r in standin.requests() if r["server"] != "token" and str(message_id) in r["body"]]

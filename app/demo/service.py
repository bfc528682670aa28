"""The whole service beside its stand-ins: `pushbridge serve` on a free loopback port, for as long as it is wanted."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import yaml

from app import poke
from app.demo.guard import Guarded

_PATIENCE = 30.0
_TIMEOUT = 10.0
_SHOWN = 2_000


class ServiceFailed(Exception):
    """The service ended, or refused what it should take; the message has the end of its output, or its answer."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """A service of its own in `folder` while the `with` block lasts; the block begins when it is ready.

    sections: of the configuration, beside `server.bind`, `admin.token` and `storage.data_dir`, which are set here.
    """

    def __init__(self, folder: Path, sections: Mapping[str, Any], token: str) -> None:
        self.port = free_port()
        self.data_dir = folder / "data"
        self.config_file = folder / "config.yaml"
        self._token = token
        document = {
            **sections,
            "server": {**sections.get("server", {}), "bind": f"127.0.0.1:{self.port}"},
            "admin": {"token": token},
            "storage": {"data_dir": str(self.data_dir)},
        }
        self.config_file.write_text(yaml.safe_dump(document))
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("PUSHBRIDGE_", "PROMETHEUS_"))}
        environ["PUSHBRIDGE_CONFIG"] = str(self.config_file)
        self._process = Guarded([sys.executable, "-m", "app.cli", "serve"], folder / "output.log", environ)

    def __enter__(self) -> Self:
        self._process.__enter__()
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()
        for address in poke.addresses(self.data_dir, 1):
            Path(address).unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            with suppress(OSError):
                if self.send("GET", "/readyz")[0] == http.client.OK:
                    return
            self.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(f"the service is not ready after {_PATIENCE:.0f} s: {self.output()}")
            time.sleep(0.05)

    def check(self) -> None:
        """Raise ServiceFailed where the service has ended."""
        if self._process.ended():
            raise ServiceFailed(f"the service ended: {self.output()}")

    def output(self) -> str:
        """The end of what it wrote."""
        return self._process.output.read_text(errors="replace")[-_SHOWN:]

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One call: status and body of the answer. Raises OSError where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def webhook(self, event: str, document: Any) -> None:
        """Post an event as WuKongIM does."""
        body = json.dumps(document).encode()
        status, answer = self.send("POST", f"/webhook?event={event}", body, {"Content-Type": "application/json"})
        if status != http.client.OK:
            raise ServiceFailed(f"the webhook was answered with {status}: {answer.decode(errors='replace')}")

    def admin(self, method: str, *path: str | int, query: str = "", document: Any = None) -> Any:
        """Call the admin API; `path` below /admin/v1, a part each."""
        where = "/".join(quote(str(part), safe="") for part in path)
        body = None if document is None else json.dumps(document).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        status, answer = self.send(method, f"/admin/v1/{where}{query}", body, headers)
        if status >= http.client.BAD_REQUEST:
            raise ServiceFailed(f"{method} /admin/v1/{where} was answered with {status}: {answer.decode()}")
        return json.loads(answer) if answer else None

"""The parent's side of the stand-in: starts the process and steers it. Blocking; any number of threads may use one."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import msgspec
from msgspec import structs

Vendor = Literal["apns", "fcm", "token"]
_STOP_SECONDS = 5.0
_SHOWN = 20


class Places(msgspec.Struct, frozen=True):
    """Where everything is: base URLs, files, and what goes into a provider block of the configuration."""

    apns: str
    fcm: str
    token_uri: str
    control: str
    ca_file: str
    key_file: str
    key_id: str
    team_id: str
    topic: str
    service_account_file: str
    client_cert_file: str


class StandinProcess:
    """A stand-in for APNs and FCM while the `with` block lasts; its addresses and files are those of `Places`.

    Every method raises ValueError where the stand-in does not know a server or an answer, ConnectionError where it
    has ended. Scripted answers are dicts with the fields of `values.Scripted`.
    """

    apns: str
    fcm: str
    token_uri: str
    control: str
    ca_file: str
    key_file: str
    key_id: str
    team_id: str
    topic: str
    service_account_file: str
    client_cert_file: str

    def __init__(self, directory: Path, seconds: float = 600) -> None:
        self._command = [sys.executable, "-m", "app.demo.standin", "--dir", str(directory), "--seconds", str(seconds)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._process = process
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            self.__exit__()
            raise ConnectionError("the stand-in ended before it was ready")
        for name, value in structs.asdict(msgspec.json.decode(line, type=Places)).items():
            setattr(self, name, value)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.terminate()
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def script(self, token: str, answers: Sequence[dict[str, Any]]) -> None:
        """Answer the next requests for this device token so, one answer each, in place of earlier scripts."""
        self._call("script", token=token, answers=list(answers))

    def script_all(self, server: Vendor, answers: Sequence[dict[str, Any]]) -> None:
        """Answer the next requests of a server so, whatever their token; goes before `script`."""
        self._call("script_all", server=server, answers=list(answers))

    def script_token_endpoint(self, answers: Sequence[dict[str, Any]]) -> None:
        self.script_all("token", answers)

    def faults(self, server: Vendor, seed: int | None, only: Sequence[str] = ()) -> None:
        """From now on fail three in ten of the requests that no script answers; with a seed of None, none any more.

        The kinds are those of `faults.kinds`, or `only` these; each request's `fault` says which one hit it.
        """
        self._call("faults", server=server, seed=seed, only=list(only))

    def goaway(
        self, server: Vendor, last: Literal["all", "none", "some"] = "all", code: int = 0, debug: bytes = b""
    ) -> None:
        """Send GOAWAY on all open connections; all, none or the older half of the unanswered requests still count.

        Those are answered, held ones at once, the others never; then the connections close. New ones are accepted.
        """
        self._call("goaway", server=server, last=last, code=code, debug=debug.decode("latin-1"))

    def freeze(self) -> None:
        """Stop the process where it is: what connects gets not so much as a TLS handshake, what is open falls silent.

        Until `thaw` no other method returns.
        """
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ConnectionError("the stand-in has ended")
        self._process.send_signal(number)

    def hold(self, server: Vendor) -> None:
        """From now on record requests without answering them, until `release`."""
        self._call("hold", server=server)

    def release(self, server: Vendor) -> None:
        self._call("release", server=server)

    def settings(
        self,
        server: Vendor,
        max_streams: int | None = None,
        first_streams: int | None = None,
        full_streams: int | None = None,
    ) -> None:
        """Change the limit of concurrent streams on the open connections, or those that new ones have.

        They begin with `first_streams`, and have `full_streams` once a request was accepted.
        """
        self._call(
            "settings", server=server, max_streams=max_streams, first_streams=first_streams, full_streams=full_streams
        )

    def revoke_tokens(self) -> None:
        """Make FCM refuse all access tokens that were issued so far."""
        self._call("revoke_tokens")

    def rotate(self, wedge: bool = True) -> None:
        """Make APNs refuse the provider tokens minted before now.

        wedge: a connection that has used one is refused for ever, as seen with the real service (pushy).
        """
        self._call("rotate", wedge=wedge)

    def requests(self, since: int = 0, server: Vendor | None = None, token: str | None = None) -> list[dict[str, Any]]:
        """The recorded requests with `n` above `since`, oldest first; the fields are those of `values.Call`."""
        found: list[dict[str, Any]] = self._call("requests", since=since, server=server, token=token)
        return found

    def wait(
        self, count: int, server: Vendor | None = None, token: str | None = None, timeout: float = 10.0
    ) -> list[dict[str, Any]]:
        """The requests that match, as soon as there are `count`; AssertionError with what came if there are fewer."""
        status, found = self._send("wait", timeout + 5, count=count, server=server, token=token, seconds=timeout)
        if status == http.client.REQUEST_TIMEOUT:
            raise AssertionError(_missing(count, server, token, found))
        result: list[dict[str, Any]] = _checked(status, found)
        return result

    def counts(self) -> dict[str, Any]:
        """Per server since the last clear: `connections`, `open` (now), `requests`, `refused` (streams over the limit).

        Beside them `token_calls`.
        """
        found: dict[str, Any] = self._call("counts")
        return found

    def clear(self) -> None:
        """Forget what was recorded and counted."""
        self._call("clear")

    def reset(self) -> None:
        """Be as new: also no scripts or faults, nothing held or rotated, all connections closed.

        Access tokens stay good.
        """
        self._call("reset")

    def _call(self, command: str, **arguments: object) -> Any:
        return _checked(*self._send(command, 30.0, **arguments))

    def _send(self, command: str, timeout: float, **arguments: object) -> tuple[int, Any]:
        address = urlsplit(self.control)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
        try:
            connection.request("POST", f"/{command}", json.dumps(arguments), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, msgspec.json.decode(response.read())
        finally:
            connection.close()


def _checked(status: int, answer: Any) -> Any:
    if status != http.client.OK:
        raise ValueError(answer["error"])
    return answer


def _missing(count: int, server: str | None, token: str | None, found: list[dict[str, Any]]) -> str:
    lines = [f"{call['n']} {call['server']} {call['path']} answered {call['answered']}" for call in found[-_SHOWN:]]
    came = "\n".join(lines) or "nothing"
    return (
        f"waited for {count} requests (server {server}, token {token}); of {len(found)} that came the last are:\n{came}"
    )

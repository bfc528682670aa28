"""What strangers reach through the shipped nginx.conf: webhooks, and nothing else, however they write a path."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from app.web.rawpath import PREFIX, encoded_path
from tests.deploy.nginx import PROGRAM, nginx

OWN, STRANGER = "127.0.0.1", "127.0.0.2"
FOR_EVERYBODY = [
    "/",
    "/?event=msg.offline",
    "/webhook",
    "/webhook?event=msg.offline",
    "/webhook?token=a?event=msg.offline",
    "/webhook?to=/../admin/v1/stats",
    "/webhook/secret?event=msg.offline",
    "/webhook/a%2Fsecret/of%20parts",
    "/webhook/../admin/v1/stats",
    "/healthz",
]
FOR_ONES_OWN = [
    "/readyz",
    "/metrics",
    "/admin/v1/stats",
    "/admin/v1/users/a%2Fb/devices",
    "/webhooks",
    "/admin/v1/users/..%2F..%2F..%2Fwebhook/devices",
    "/admin/v1/users/..%2f..%2f..%2fwebhook",
    "/admin/v1/users/..%2F..%2F..",
    "/admin/v1/users/..%2F..%2F..%2Fhealthz",
    "/%61dmin/v1/users/..%2F..%2F..%2Fwebhook/devices",
    "/admin/v1/users/..%2F..%2F..%2Fwebhook%3F/devices",
    "/metrics/..",
    "/metrics/../webhook",
    "/./webhook",
    "/%77ebhook",
    "/webhook%2Fsecret",
]


class Upstream(ThreadingHTTPServer):
    """Takes everything. paths: those that were asked for, as they came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taken)
        self.paths: list[str] = []


class _Taken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Upstream)
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Upstream, int]]:
    if PROGRAM is None:
        pytest.skip("nginx is not installed")
    upstream = Upstream()
    thread = threading.Thread(target=upstream.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with nginx(upstream.server_port, tmp_path_factory.mktemp("nginx"), f"{OWN}/32") as port:
            yield upstream, port
    finally:
        upstream.shutdown()
        upstream.server_close()
        thread.join()


def ask(port: int, path: str, who: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(who, 0))
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", FOR_EVERYBODY)
def test_everybody_reaches_the_webhook(served: tuple[Upstream, int], path: str) -> None:
    upstream, port = served
    assert (ask(port, path, STRANGER), upstream.paths.pop()) == (200, path)
    assert not encoded_path({"RAW_URI": path}).startswith(PREFIX)


@pytest.mark.parametrize("path", FOR_ONES_OWN)
def test_strangers_reach_nothing_else(served: tuple[Upstream, int], path: str) -> None:
    upstream, port = served
    assert (ask(port, path, STRANGER), upstream.paths) == (403, [])
    assert ask(port, f"http://pushbridge{path}", STRANGER) == 403
    assert (ask(port, path, OWN), upstream.paths.pop()) == (200, path)

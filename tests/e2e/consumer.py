"""Another consumer of WuKongIM's events: an HTTP server in a thread, which answers as it is told."""

from __future__ import annotations

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.e2e.service import free_port


class Consumer:
    """status: what it answers; None hangs until it is something else. seconds: how long it takes for that.

    seen: every request in the order of arrival, as (status, event, body); the status is None where it hung.
    """

    def __init__(self, secret: str = "") -> None:
        self.port = free_port()
        self.status: int | None = 200
        self.seconds = 0.0
        self.seen: list[tuple[int | None, str, bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.secret = secret
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token={self.secret}"

    def start(self) -> Consumer:
        self._ends.clear()
        self._server = _Server(self, self.port)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Refuse connections from now on, and cut the open ones."""
        self._ends.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    def tries(self, status: int | None) -> int:
        """How many requests have been answered so."""
        return sum(found == status for found, _, _ in self.seen)

    def taken(self) -> dict[str, list[bytes]]:
        """The bodies that were answered 200, by event, in their order."""
        found: defaultdict[str, list[bytes]] = defaultdict(list)
        for status, event, body in list(self.seen):
            if status == 200:
                found[event].append(body)
        return dict(found)

    def answer(self, handler: Any) -> int | None:
        """What to answer; None where the connection is to be cut."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        query = parse_qs(urlsplit(handler.path).query, keep_blank_values=True)
        status = self.status
        with self._lock:
            self.seen.append((status, query.pop("event")[-1], body))
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.queries.append(query)
        if status is None or self.seconds:
            self._ends.wait(self.seconds if status else None)
        return status


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, consumer: Consumer, port: int) -> None:
        self._open: set[Any] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                status = consumer.answer(self)
                self.close_connection = status is None
                if status is not None:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A bridge that is killed breaks its connections off."""

    def cut(self) -> None:
        for request in self._open:
            request.close()

"""WuKongIM's own API, as far as the bridge asks it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """WuKongIM's `POST /user/onlinestatus`, answered as the captured servers answer. `online`: device flags by uid."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.online: dict[str, list[int]] = {}
        self.asked: list[list[str]] = []
        self.status = 200
        self.answer = threading.Event()
        self.answer.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        uids = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/user/onlinestatus"
        self.server.asked.append(uids)
        self.server.answer.wait(10)
        records = [
            {"uid": uid, "device_flag": flag, "online": 1} for uid in uids for flag in self.server.online.get(uid, [])
        ]
        body = json.dumps(records).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

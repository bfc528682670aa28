"""nginx as APNs and FCM: HTTP/2 over TLS, an answer at once, whatever is asked.

It notes when FCM's requests came, and those for one watched iPhone.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Self

from app.demo.certs import make_ca_and_server
from app.demo.guard import Guarded
from app.demo.service import free_port

MISSING = "bench needs nginx: apt-get install -y nginx-light, or: brew install nginx"
WATCHED = "f" * 64
"""The iPhone whose pushes are noted."""
_PATIENCE = 10.0
_STAMP = len("1795616533.187\n")

# aioapns knows an answer by its apns-id only, so that is sent back, as APNs does.
_CONFIG = """
{user}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    log_format stamp '$msec';
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    http2_max_concurrent_streams 1000;
    default_type application/json;
    server {{
        listen 127.0.0.1:{port} ssl http2;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        location = /3/device/{watched} {{
            access_log {folder}/watched.log stamp;
            add_header apns-id $http_apns_id;
            return 200;
        }}
        location /3/device/ {{ add_header apns-id $http_apns_id; return 200; }}
        location ~ ^/v1/projects/ {{
            access_log {folder}/fcm.log stamp buffer=64k flush=50ms;
            return 200 '{{"name":"projects/p/messages/1"}}';
        }}
        location /token {{ return 200 '{{"access_token":"t","expires_in":3599,"token_type":"Bearer"}}'; }}
    }}
}}
"""


def is_there() -> bool:
    return _binary() is not None


def _binary() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Nginx:
    """One nginx process while the `with` block lasts. `url`: of both vendors; `ca_file`: who signed its certificate."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = make_ca_and_server(folder)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca_file = authority.ca_file
        self._pid_file = folder / "nginx.pid"
        self._fcm, self._watched = folder / "fcm.log", folder / "watched.log"
        config = folder / "nginx.conf"
        config.write_text(
            _CONFIG.format(
                user="user root;" if os.geteuid() == 0 else "",
                folder=folder,
                watched=WATCHED,
                port=self.port,
                certificate=authority.server_file,
                key=authority.server_key_file,
            )
        )
        self._process = Guarded([_binary() or "nginx", "-c", str(config)], folder / "output.log")

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text())

    def fcm_requests(self) -> int:
        """How many have come so far, but for the last twentieth of a second: a look at a file's size."""
        return self._fcm.stat().st_size // _STAMP

    def fcm_times(self) -> list[float]:
        """UNIX seconds at which they came."""
        return [float(line) for line in self._fcm.read_text().splitlines()]

    def watched_times(self) -> list[float]:
        """UNIX seconds at which the pushes for the watched iPhone came."""
        return [float(line) for line in self._watched.read_text().splitlines()]

    def __enter__(self) -> Self:
        self._process.__enter__()
        deadline = time.monotonic() + _PATIENCE
        while not self._listens():
            if self._process.ended() or time.monotonic() > deadline:
                self._process.__exit__()
                raise RuntimeError(f"nginx did not start: {self._process.output.read_text()}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

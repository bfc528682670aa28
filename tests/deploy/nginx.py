"""The shipped nginx.conf, run before something."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.deploy.names import ROOT
from tests.e2e.service import free_port, until

PROGRAM = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(upstream: int, folder: Path, own: str = "127.0.0.0/8") -> Iterator[int]:
    """The shipped configuration before a port of this machine, with other ports and folders; its port.

    own: the addresses of this machine that may reach everything.
    """
    port = free_port()
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for ours, here in (
        ("listen 8080 ", f"listen 127.0.0.1:{port} "),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{upstream};"),
        ("pid /run/nginx.pid;", f"pid {folder}/nginx.pid; daemon off; {'user root;' if os.geteuid() == 0 else ''}"),
        ("/var/log/nginx/", f"{folder}/"),
        ("/var/lib/nginx/", f"{folder}/"),
        ("127.0.0.0/8 1;", f"{own} 1;"),
    ):
        assert ours in text
        text = text.replace(ours, here)
    config = folder / "nginx.conf"
    config.write_text(text)
    assert PROGRAM, "this needs nginx: apt-get install -y nginx-light, or: brew install nginx"
    process = subprocess.Popen([PROGRAM, "-p", str(folder), "-c", str(config)])
    try:
        until(lambda: _answers(port), "nginx answers")
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False

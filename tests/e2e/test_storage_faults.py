"""Storage that fails under a running service: 503, nothing half-written, and on without a restart of any process."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until

BIG = "x" * 60_000
"""The text of messages that fill a disk."""
WEB_ALONE = {"dispatcher": {"embedded": False}, "ready": "/healthz"}


class Disk(Protocol):
    """A folder on a disk that can be full."""

    folder: Path

    def fill(self, service: Service) -> None: ...
    def empty(self, service: Service) -> None: ...


class SmallDisk:
    """A file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=True)

    def fill(self, service: Service, left: int = 8 << 10) -> None:
        """Have `left` bytes left: some, so that it is not the bridge that sees first that it is full."""
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            with suppress(OSError):
                while True:
                    ballast.write(bytes(1 << 12))
            ballast.truncate(ballast.tell() - left)

    def empty(self, service: Service) -> None:
        (self.folder / "ballast").unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class NoGrowth:
    """A folder whose files cannot grow: what a quota does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def fill(self, service: Service) -> None:
        size = (self.folder / "pushbridge.db-wal").stat().st_size
        for pid in service.pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def empty(self, service: Service) -> None:
        for pid in service.pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        pass


def _may_mount() -> bool:
    """Whether this is root with its rights; elsewhere the limit on files shows the same."""
    return sys.platform == "linux" and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


MAY_MOUNT = _may_mount()


@pytest.fixture(params=[NoGrowth, SmallDisk] if MAY_MOUNT else [NoGrowth], ids=lambda kind: kind.__name__)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = request.param(tmp_path / "disk")
    yield disk
    disk.close()


def check_whole(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "pushbridge.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class Poster:
    """Posts messages and keeps what was answered 200. refused: how many were not, each with 503. why: what was said."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.accepted: set[int] = set()
        self.refused = 0
        self.why: list[str] = []

    def post(self, text: str = "hello") -> int:
        body = offline(["u"], text=text)
        status, answer = self.service.request("POST", "/webhook?event=msg.offline", json.dumps(body).encode())
        if status == 200:
            self.accepted.add(body["message_id"])
        else:
            error = json.loads(answer)["error"]
            assert (status, error["code"]) == (503, "unavailable")
            self.why.append(error["message"])
            self.refused += 1
        return status


def all_running(service: Service) -> list[int]:
    """The master, two workers and the dispatcher."""
    return list(until(lambda: len(found := service.pids()) == 4 and found, "every process runs"))


def check_all_were_sent(service: Service, standin: StandinProcess, poster: Poster) -> None:
    """Whatever was answered 200 is at the vendor, and nothing is that was not posted."""
    until(service.is_idle, "nothing waits any more", 30)
    outcomes = {int(record["message_id"]): record["outcome"] for record in service.records()}
    assert {outcomes[message_id] for message_id in poster.accepted} == {"sent"}
    seen = {int(dict(request["headers"])["apns-collapse-id"]) for request in standin.requests(server="apns")}
    assert poster.accepted <= seen


def test_a_full_disk(disk: Disk, start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start(storage={"data_dir": str(disk.folder), "min_free": "1B"})
    service.register("u", apns_token(0xD15C))
    processes = all_running(service)
    poster = Poster(service)
    assert poster.post() == 200
    disk.fill(service)
    until(lambda: poster.post(BIG) == 503, "a message is refused")
    for _ in range(20):
        poster.post(BIG)
    assert poster.refused >= 15
    assert service.request("GET", "/healthz")[0] == service.request("GET", "/metrics")[0] == 200
    assert "the database cannot be written" in poster.why
    until(lambda: '"event": "storage fails"' in service.output.read_text(), "the dispatcher finds it full too")
    disk.empty(service)
    until(lambda: all(poster.post(BIG) == 200 for _ in range(5)), "messages are taken again")
    check_all_were_sent(service, standin, poster)
    assert service.pids() == processes
    check_whole(disk.folder)


@pytest.mark.skipif(not MAY_MOUNT, reason="needs a disk of its own; tests/web/test_bounds.py shows the same without")
def test_a_disk_that_is_nearly_full(tmp_path: Path, start: Callable[..., Service]) -> None:
    disk = SmallDisk(tmp_path / "disk")
    try:
        service = start(storage={"data_dir": str(disk.folder), "min_free": "8MiB"}, **WEB_ALONE)
        poster = Poster(service)
        assert poster.post() == 200
        disk.fill(service, left=4 << 20)
        until(lambda: poster.post() == 503, "a message is refused")
        assert "storage.min_free: found " in poster.why[-1]
        until(lambda: "disk nearly full" in service.request("GET", "/readyz")[1].decode(), "it says so")
        disk.empty(service)
        until(lambda: poster.post() == poster.post() == poster.post() == 200, "messages are taken again")
        log = service.output.read_text()
        assert 1 <= log.count('"event": "calls are refused"') <= 2, "each of two workers says so once"
    finally:
        disk.close()


HOLDER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_database_that_another_program_holds(start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start()
    service.register("u", apns_token(0x10C4))
    processes = all_running(service)
    poster = Poster(service)
    assert poster.post() == 200
    file = service.folder / "data" / "pushbridge.db"
    command = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with ThreadPoolExecutor(2) as threads:
            assert set(threads.map(lambda _: poster.post(), range(2))) == {503}
        assert service.request("GET", "/healthz")[0] == 200
        # Asked of one worker or the other: one at least has had a write refused.
        until(lambda: b'"storage":"not writable"' in service.request("GET", "/readyz")[1], "the storage is named")
        holder.stdin.close()
    assert holder.returncode == 0
    assert poster.post() == 200
    # A call that was waited for in vain may have been kept when the file was free again: it is sent then, too.
    check_all_were_sent(service, standin, poster)
    assert service.pids() == processes
    check_whole(file.parent)

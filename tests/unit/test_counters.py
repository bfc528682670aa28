"""What is counted by processes that come and go."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from app import counters

COUNT = """
import sys
from pathlib import Path
from app import counters
counters.share(Path(sys.argv[1]))
from app import metrics
metrics.WEBHOOKS.labels("msg.offline", "200").inc(int(sys.argv[2]))
metrics.WEBHOOK_SECONDS.labels("msg.offline").observe(0.003)
"""


def count(folder: Path, calls: int) -> None:
    """A process that counts and ends."""
    subprocess.run([sys.executable, "-c", COUNT, str(folder), str(calls)], check=True, timeout=60)


def sums(folder: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return {
        f"{sample.name} {sample.labels.get('le', '')}".strip(): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.labels.get("event") == "msg.offline"
    }


def nobody(_pid: int) -> bool:
    return False


def test_what_a_process_that_is_gone_counted_stays_and_its_files_go(tmp_path: Path) -> None:
    count(tmp_path, 3)
    counters.keep_past(tmp_path, nobody)
    count(tmp_path, 4)
    for _ in range(2):
        before = sums(tmp_path)
        assert before["pushbridge_webhooks_total"] == 7
        assert before["pushbridge_webhook_seconds_count"] == 2
        assert before["pushbridge_webhook_seconds_bucket 0.002"] == 0
        assert before["pushbridge_webhook_seconds_bucket 0.005"] == 2
        counters.keep_past(tmp_path, nobody)
    assert sums(tmp_path) == before
    assert {file.name for file in tmp_path.iterdir()} == {"lock", "counter_past.db", "histogram_past.db"}


def test_the_files_of_a_process_that_lives_stay_its_own(tmp_path: Path) -> None:
    counters._reserve(tmp_path)
    counters.keep_past(tmp_path, lambda pid: pid == os.getpid())
    assert (tmp_path / f"counter_{os.getpid()}.db").stat().st_size == counters.ROOM
    assert not (tmp_path / "counter_past.db").exists()


@pytest.mark.parametrize("content", [b"", b"\x09", b"\xff\x00\x00\x00" + bytes(60), os.urandom(4096)], ids=len)
def test_a_file_that_cannot_be_read_costs_itself_alone(tmp_path: Path, content: bytes) -> None:
    count(tmp_path, 3)
    (tmp_path / "counter_1.db").write_bytes(content)
    (tmp_path / "histogram_1.new").write_bytes(content)
    counters.keep_past(tmp_path, nobody)
    assert sums(tmp_path)["pushbridge_webhooks_total"] == 3
    assert {file.name for file in tmp_path.iterdir()} == {"lock", "counter_past.db", "histogram_past.db"}


def test_what_another_process_left_under_the_same_number_is_counted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(counters.FOLDER, "")  # put back afterwards
    count(tmp_path, 3)
    (file,) = tmp_path.glob("counter_*.db")
    file = file.rename(tmp_path / f"counter_{os.getpid()}.db")
    counters.share(tmp_path)
    assert sums(tmp_path)["pushbridge_webhooks_total"] == 3
    for content in (b"", bytes([80, 0, 0, 0]) + bytes(76)):  # how the power may leave it
        file.write_bytes(content)
        counters.share(tmp_path)
        assert file.read_bytes() == bytes(counters.ROOM)


def test_nothing_is_moved_while_somebody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(counters.FOLDER, str(tmp_path))
    moved = threading.Thread(target=counters.keep_past, args=(tmp_path, nobody))
    with counters.reading():
        moved.start()
        moved.join(0.1)
        assert moved.is_alive()
    moved.join(10)
    assert not moved.is_alive()


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(("limit", "shared"), [(None, True), (no_room, False)])
def test_a_process_that_finds_the_disk_full_counts_by_itself(
    tmp_path: Path, limit: Callable[[], None] | None, shared: bool
) -> None:
    code = "import os, sys; from pathlib import Path; from app import counters; counters.share(Path(sys.argv[1]));"
    code += "print(os.environ[counters.FOLDER], os.path.isdir(os.environ[counters.FOLDER]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, check=True, timeout=60)
    folder, is_there = done.stdout.split()[-2:]
    assert is_there == "True"
    assert (Path(folder) == tmp_path) is Path(folder).exists() is shared


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system without a byte to spare."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    with (folder / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4_096))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_does_not_kill_who_counts(full_disk: Path) -> None:
    count(full_disk, 3)

"""The demo as a person starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.service import until


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo keeps its files. Sockets in it need a short path, so it is not below tmp_path itself."""
    folder = tmp_path / "t"
    folder.mkdir()
    return folder


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    environ = {**os.environ, "TMPDIR": str(temporary), "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "app.cli", "demo", *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environ,
        start_new_session=True,
        # A shell that runs the tests in the background has Ctrl-C ignored, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def half_way(temporary: Path) -> subprocess.Popen[str]:
    """A demo that has shown its first card and now waits."""
    process = start(temporary, "--seconds-between", "60")
    assert process.stdout is not None
    while "APNs took it" not in process.stdout.readline():
        assert process.poll() is None
    return process


def processes_of(temporary: Path) -> list[str]:
    """Command lines of the live processes that were started with this folder for their files."""
    mark = f"TMPDIR={temporary}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_whole_conversation(temporary: Path) -> None:
    process = start(temporary, "--seconds-between", "0")
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert shown.count("EXAMPLE CHAT") == 6
    for words in ("Are you still up for the mountains on Saturday?", "[图片]", "好的，周六早上车站见！"):
        assert words in shown
    assert shown.count("Ann: The train leaves at 7:40 from platform 3.") == 2
    assert shown.count("Ann：The train leaves at 7:40 from platform 3.") == 1
    assert shown.count("APNs took it") == 3
    assert shown.count("FCM took it") == 2
    assert shown.count("APNs answers 410 Unregistered") == 1
    assert "Dora: online, so the phone stays silent" in shown
    assert "thread 2:hike-2026" in shown
    table = [line.split() for line in shown.partition("/admin/v1/trace")[2].splitlines()]
    for row in (["Eva", "invalid_token"], ["Dora", "suppressed", "online"], ["Eva", "skipped", "no_device"]):
        assert any(all(cell in line for cell in row) for line in table), row
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_half_way(temporary: Path, number: signal.Signals, soak: bool) -> None:
    if number == signal.SIGTERM and not soak:
        pytest.skip("has a long form only")
    process = half_way(temporary)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_killed(temporary: Path) -> None:
    process = half_way(temporary)
    process.kill()
    process.communicate(timeout=30)
    until(lambda: processes_of(temporary) == [], "all processes have ended", 25)

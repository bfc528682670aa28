"""Starts the dispatcher beside gunicorn's master and starts it again when it dies."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping

FOLLOW_STDIN = "PUSHBRIDGE_FOLLOW_STDIN"
"""Set for a dispatcher that must end with the process that started it."""

FIRST_DELAY, LONGEST_DELAY = 0.1, 1.0
"""Seconds before a dispatcher that died is started again; doubled while it dies young."""
YOUNG = 10.0
STOP_GRACE = 15.0


class Keeper:
    """Keeps `processes` dispatchers alive until `stop`. Each ends by itself when this process is gone."""

    def __init__(self, processes: int, environ: Mapping[str, str]) -> None:
        self._environ = {**environ, FOLLOW_STDIN: "1"}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(slot,), name=f"keeper-{slot}", daemon=True)
            for slot in range(processes)
        ]
        self._stopping = threading.Event()

    def start(self) -> None:
        for slot in range(len(self._threads)):
            self._spawn(slot)  # before there is a thread, which a fork of gunicorn's could catch in the middle
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Have the dispatchers stop in order, and return when they have."""
        self._stopping.set()
        for child in self._children.values():
            child.terminate()
        for thread in self._threads:
            thread.join(STOP_GRACE)
        for child in self._children.values():
            child.kill()

    def forget(self) -> None:
        """In a forked worker: let go of the pipes, so that a dispatcher sees the end of the master, not of a worker."""
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()

    def _spawn(self, slot: int) -> None:
        command = [sys.executable, "-m", "app.cli", "dispatch", "--slot", str(slot)]
        self._children[slot] = subprocess.Popen(command, stdin=subprocess.PIPE, env=self._environ)

    def _keep(self, slot: int) -> None:
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            self._children[slot].wait()
            delay = FIRST_DELAY if time.monotonic() - started > YOUNG else min(delay * 2, LONGEST_DELAY)
            if self._stopping.wait(delay):
                return
            self._spawn(slot)
            if self._stopping.is_set():
                self._children[slot].terminate()

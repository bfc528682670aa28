"""Starts the dispatcher beside gunicorn's master and starts it again when it dies."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

import structlog

log = structlog.get_logger()

FOLLOW_STDIN = "PUSHBRIDGE_FOLLOW_STDIN"
"""Set for a dispatcher that must end with the process that started it.

Standard input is a socket then, which ends with that process. The dispatcher writes a byte to it when it has loaded
everything and lacks only its slot.
"""

FIRST_DELAY, LONGEST_DELAY = 0.1, 1.0
"""Seconds before a dispatcher that died is started again; doubled while it dies young."""
YOUNG = 10.0
START_PATIENCE = 30.0
STOP_GRACE = 15.0


class Keeper:
    """Keeps `processes` dispatchers alive until `stop`. Each ends by itself when this process is gone."""

    def __init__(self, processes: int, environ: Mapping[str, str]) -> None:
        self._environ = {**environ, FOLLOW_STDIN: "1"}
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._ends: dict[int, socket.socket] = {}
        self._threads = [
            threading.Thread(target=self._keep, args=(slot,), name=f"keeper-{slot}", daemon=True)
            for slot in range(processes)
        ]
        self._stopping = threading.Event()

    def start(self) -> None:
        for slot in range(len(self._threads)):
            self._try_to_spawn(slot)  # before there is a thread, which a fork of gunicorn's could catch in the middle
        for thread in self._threads:
            thread.start()

    def wait_until_loaded(self) -> None:
        """Return when each dispatcher has its slot or waits for it, has died, or has had half a minute."""
        deadline = time.monotonic() + START_PATIENCE
        for end in list(self._ends.values()):
            end.settimeout(max(0.001, deadline - time.monotonic()))
            with suppress(OSError):
                end.recv(1)

    def stop(self) -> None:
        """Have the dispatchers stop in order, and return when they have."""
        self._stopping.set()
        for child in self._children.values():
            child.terminate()
        for thread in self._threads:
            thread.join(STOP_GRACE)
        for child in self._children.values():
            child.kill()
        for end in self._ends.values():
            end.close()

    def forget(self) -> None:
        """In a forked worker: let go of the sockets, so that dispatchers see the end of the master, not of a worker."""
        for end in self._ends.values():
            end.close()

    def _try_to_spawn(self, slot: int) -> None:
        """Where it fails, as at a limit of processes or while an upgrade moves files, `_keep` tries again."""
        try:
            self._spawn(slot)
        except OSError as error:
            log.error("the dispatcher cannot be started", action="start", slot=slot, error=error.strerror)

    def _spawn(self, slot: int) -> None:
        command = [sys.executable, "-m", "app.cli", "dispatch", "--slot", str(slot)]
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._children[slot] = subprocess.Popen(command, stdin=theirs.fileno(), env=self._environ)
            except OSError:
                ours.close()
                raise
        if slot in self._ends:
            self._ends[slot].close()
        self._ends[slot] = ours

    def _keep(self, slot: int) -> None:
        delay = FIRST_DELAY
        while True:
            started = time.monotonic()
            if slot in self._children:
                self._children[slot].wait()
            delay = FIRST_DELAY if time.monotonic() - started > YOUNG else min(delay * 2, LONGEST_DELAY)
            if self._stopping.wait(delay):
                return
            self._try_to_spawn(slot)
            if self._stopping.is_set() and slot in self._children:
                self._children[slot].terminate()

"""Tells the dispatcher that there is work: a datagram on a local socket. A lost one costs a polling interval."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

import structlog

log = structlog.get_logger()

LONGEST = 100
"""Bytes of a socket's path; Linux takes 107 and macOS 103."""


def addresses(data_dir: Path, slots: int) -> list[str]:
    """One socket a dispatcher process: in the data folder, or where that path is too long with the temporary files."""
    folder = data_dir.resolve()
    ours = f"pushbridge-{os.getuid()}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    path = Path("/tmp") / ours  # noqa: S108 - a name of our own in it, and anybody may poke
    for better in (Path(tempfile.gettempdir()) / ours, folder / "dispatcher"):
        if len(os.fsencode(better)) + len("-15.sock") <= LONGEST:
            path = better
    return [f"{path}-{slot}.sock" for slot in range(slots)]


class Poker:
    """Pokes every dispatcher process of one data folder."""

    def __init__(self, to: Sequence[str]) -> None:
        self._to = to
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self) -> None:
        for address in self._to:
            # Nobody listening, or a full buffer: either way the dispatcher looks by itself soon.
            with contextlib.suppress(OSError):
                self._socket.sendto(b"", address)

    def close(self) -> None:
        self._socket.close()


def listen(address: str) -> socket.socket:
    """The dispatcher's end; the caller holds the lock of its slot, so what is left of an earlier one goes.

    Where nothing can listen there it hears nobody.
    """
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.setblocking(False)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
        end.bind(address)
    except OSError as error:
        said = "the dispatcher cannot be poked, and looks for work once a second"
        log.warning(said, action="start", socket=address, error=error.strerror)
    return end

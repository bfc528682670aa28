"""Tells the dispatcher that there is work: a datagram on a local socket. A lost one costs a polling interval."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

LONGEST = 100
"""Bytes of a socket's path; Linux takes 107 and macOS 103."""


def addresses(data_dir: Path, slots: int) -> list[str]:
    """One socket a dispatcher process, in the folder for temporary files: paths of sockets must be short."""
    name = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    sockets = [f"pushbridge-{os.getuid()}-{name}-{slot}.sock" for slot in range(slots)]
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) + len(sockets[-1]) > LONGEST:
        folder = "/tmp"  # noqa: S108 - a name of our own in it, and anybody may poke
    return [str(Path(folder) / socket_name) for socket_name in sockets]


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
    """The dispatcher's end; the caller holds the lock of its slot, so what is left of an earlier one goes."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(address)
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    end.setblocking(False)
    end.bind(address)
    return end

"""Whether gunicorn could listen on an address: tried before it lets go of the one that it has."""

from __future__ import annotations

import os
import socket
import stat

from gunicorn.util import is_ipv6, parse_address  # type: ignore[import-untyped]


def is_same(bind: str, other: str) -> bool:
    """Whether gunicorn takes both for one address, and keeps what listens there."""
    return bool(parse_address(bind) == parse_address(other))


def fault(bind: str) -> str:
    """Why nobody can listen on `server.bind`, "" where somebody can. Nothing is left of the try."""
    address = parse_address(bind)
    try:
        if isinstance(address, str):
            return _fault_of_path(address)
        with socket.socket(socket.AF_INET6 if is_ipv6(address[0]) else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except (OSError, TypeError) as error:  # TypeError: what cannot be a host's name
        return getattr(error, "strerror", None) or str(error)
    return ""


def _fault_of_path(path: str) -> str:
    """gunicorn puts its socket in the place of another, and stops at everything else that is there."""
    if os.path.exists(path):
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
        may_replace = os.access(os.path.dirname(path) or ".", os.W_OK | os.X_OK)
        return "" if is_socket and may_replace else "Permission denied" if is_socket else "there is no socket"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(path)
    os.unlink(path)
    return ""

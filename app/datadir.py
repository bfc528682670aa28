"""What lies in the data folder beside the database: the admin token, the dispatchers' locks, the shared counters."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from app import counters
from app.config import Config, no_storage
from app.store.opening import Unusable, make_private

log = structlog.get_logger()


@contextmanager
def usable(config: Config) -> Iterator[Path]:
    """The data folder, made if it is missing; raises ConfigError where what is done inside cannot be done there."""
    try:
        make_private(config.data_dir)
        yield config.data_dir
    except OSError as error:
        file = Path(str(error.filename))
        inside = f"{file.name}: " if file.parent == config.data_dir else ""
        raise no_storage(config, f"{inside}{error.strerror}") from None
    except Unusable as error:
        raise no_storage(config, str(error)) from None


def admin_token(config: Config) -> str:
    """The configured token, or the one that is made at the first start."""
    if config.admin.token:
        return config.admin.token.text
    with usable(config) as folder:
        file = folder / "admin-token"
        return _read(file) or _keep_token(file, secrets.token_urlsafe(32))


def _read(file: Path) -> str:
    """The text of a file, "" where there is none."""
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    return ""


def _keep_token(file: Path, token: str) -> str:
    """Put a whole token in place, unless another process was first; the one that is there then."""
    descriptor, made = tempfile.mkstemp(dir=file.parent, prefix="admin-token.")  # its owner's alone
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(f"{token}\n")
        with suppress(FileExistsError):
            os.link(made, file)
        if not _read(file):  # an empty one is no token
            os.replace(made, file)
    finally:
        Path(made).unlink(missing_ok=True)
    return _read(file)


def hold_slot(config: Config, slot: int, loaded: Callable[[], None]) -> int:
    """Wait until no other process has this slot, and hold it; under one name two would rescue each other's work.

    loaded: called once it is known whether there is another one to wait for, before the wait.
    """
    with usable(config) as folder:
        lock = os.open(folder / f"dispatcher-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info(f"waits for slot {slot}, which another dispatcher has", action="start")
        loaded()
        fcntl.flock(lock, fcntl.LOCK_EX)  # nothing where it is held already
        return lock


def share_counters(config: Config) -> None:
    """Count together with the other processes of this service, before anything that counts is imported."""
    with usable(config) as data_dir:
        folder = data_dir / "metrics"
        folder.mkdir(exist_ok=True)
    counters.share(folder)


def keep_counted(config: Config) -> None:
    """Once a process, as it starts: put together what those before it counted."""
    try:
        counters.keep_past(config.data_dir / "metrics", _is_alive)
    except OSError as error:
        log.warning("past counts are not put together", action="metrics", error=error.strerror)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Registering devices in bulk: NDJSON, a device a line. A bad line spoils no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from msgspec import Struct, field

from app.admin import devices
from app.admin.devices import DeviceLine, Providers
from app.admin.reading import Refused, read
from app.model import Device
from app.store.dialect import Database

MAX_LINE = 64 << 10
"""Bytes of one line."""
BATCH = 25
"""Devices in one transaction: webhooks wait for as long as it takes, and have as long again before the next one."""
MAX_ERRORS = 1_000


class LineError(Struct, frozen=True):
    """Why a line was passed over; lines count from 1."""

    line: int
    message: str


class Imported(Struct):
    """How many devices were registered, and the lines that were not. more_errors: how many of these are not listed."""

    imported: int = 0
    errors: list[LineError] = field(default_factory=list)
    more_errors: int = 0

    def refuse(self, line: int, message: str) -> None:
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(LineError(line, message))
        else:
            self.more_errors += 1


Line = bytes | Refused
"""A line, or why it cannot be read."""


def lines(stream: BinaryIO) -> Iterator[Line]:
    """The lines of a stream; one that is too long is passed over without keeping it."""
    while line := stream.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE)
        yield Refused(f"line: found more than {MAX_LINE} bytes; allowed: up to {MAX_LINE}")


def register_lines(
    database: Database,
    source: Iterable[Line],
    providers: Providers,
    now: Callable[[], int],
    pause: Callable[[float], None] = time.sleep,
) -> Imported:
    """Register the devices of these lines; raises Refused where there is not a single line.

    pause: waits for so many seconds between two transactions, in which others write.
    """
    result = Imported()
    batch: list[Device] = []
    number = 0
    for number, line in enumerate(source, 1):
        try:
            if isinstance(line, Refused):
                raise line
            if line.strip():
                batch.append(_device(line, providers, now()))
        except Refused as refused:
            result.refuse(number, str(refused))
        if len(batch) == BATCH:
            started = time.perf_counter()
            result.imported += len(devices.register(database, batch))
            batch.clear()
            pause(time.perf_counter() - started)
    if batch:
        result.imported += len(devices.register(database, batch))
    if number == 0:
        raise Refused("body: found nothing; allowed: one JSON object a line")
    return result


def _device(line: bytes, providers: Providers, now: int) -> Device:
    body = read(line, DeviceLine)
    return devices.make(body.uid, body.device_id, body, providers, now)

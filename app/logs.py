"""Logs on standard error: one JSON object a line, without tokens, titles, bodies or headers; for eyes in a terminal.

Everything goes this way: our own lines, those of libraries and gunicorn, warnings, and what ends a process or thread.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

SECRET = re.compile(r"(/webhook/)[^\s?]+|([?&]token=)[^\s?&]+|(://[^/@\s:]*:)[^\s@/]+(?=@)")
"""Where a webhook's address holds its secret: up to where nothing of it can follow, since quotes can be part of one."""

ADDED: list[Processor] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class _Stderr:
    """Standard error as it is when a line is written. One that is closed, broken or full ends nothing."""

    def write(self, text: str) -> None:
        self._do("write", text)

    def flush(self) -> None:
        self._do("flush")

    def isatty(self) -> bool:
        return bool(self._do("isatty"))

    @staticmethod
    def _do(name: str, *arguments: str) -> object:
        try:
            return getattr(sys.stderr, name)(*arguments)
        except (OSError, ValueError, AttributeError):  # ValueError: closed; AttributeError: there was none at the start
            return None


STDERR: Any = _Stderr()


def configure() -> None:
    """For a process that serves, before it opens a file: one in the place of standard error would be written to."""
    _fill_standard_streams()
    atexit.register(_let_go)
    render = _for_eyes() if STDERR.isatty() else _for_machines()
    structlog.configure(
        processors=[*ADDED, *render],
        logger_factory=structlog.WriteLoggerFactory(STDERR),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(STDERR)
    handler.setFormatter(formatter(render))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _died
    threading.excepthook = lambda fell: _died(fell.exc_type, fell.exc_value, fell.exc_traceback)
    sys.unraisablehook = lambda odd: _died(odd.exc_type, odd.exc_value, odd.exc_traceback)


def adopt(logger: logging.Logger) -> None:
    """Have the handlers of gunicorn's logger write as everything else does; a terminal shows gunicorn's own lines."""
    if not STDERR.isatty():
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setStream(STDERR)
            handler.setFormatter(formatter(_for_machines()))


def formatter(render: list[Processor]) -> logging.Formatter:
    """For records of the standard library: the same fields as ours, with the name of the logger."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*ADDED, structlog.stdlib.add_logger_name],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_secrets, *render],
    )


def _for_machines() -> list[Processor]:
    return [
        structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


def _for_eyes() -> list[Processor]:
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]  # shows no values


def _without_secrets(_logger: object, _name: str, event: EventDict) -> EventDict:
    event["event"] = without_secrets(str(event["event"]))
    return event


def without_secrets(text: str) -> str:
    """For what gunicorn says: it names the addresses of calls that it could not serve."""
    return SECRET.sub(lambda found: f"{found[found.lastindex or 0]}…", text)


def _died(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    where = threading.current_thread().name
    info = (kind, error, traceback) if error is not None else kind.__name__
    structlog.get_logger().critical("not handled", action="crash", thread=where, exc_info=info)


def _fill_standard_streams() -> None:
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _let_go() -> None:
    """At the end: Python would end with an error code for what waits in standard error and cannot be written."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        sys.stderr = None

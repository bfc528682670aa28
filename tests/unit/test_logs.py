"""What a log line holds, and that there is always one line, whoever writes it and wherever it goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import logs


def run(code: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """A process whose logs are configured, and that says "alive" as it ends."""
    code = f"from app import logs; logs.configure()\nimport structlog, logging, warnings\n{code}\nprint('alive')\n"
    how = {"stderr": subprocess.PIPE, **how}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False, **how)


def lines(code: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code).stderr.splitlines()]


FAIL = """
def fail(token):
    raise RuntimeError(f"a token of {len(token)} characters")
"""


def test_a_traceback_is_one_line_without_the_values_of_its_frames() -> None:
    (line,) = lines(f"""{FAIL}
try:
    fail("SECRET-token")
except RuntimeError:
    structlog.get_logger().exception("it failed", action="test", message_id=7)
""")
    assert (line["event"], line["level"], line["action"], line["message_id"]) == ("it failed", "error", "test", 7)
    assert line["exception"][0]["exc_value"] == "a token of 12 characters"
    assert "fail" in str(line["exception"][0]["frames"])
    assert "SECRET" not in str(line)


def test_what_ends_a_process_or_a_thread_is_one_line_each() -> None:
    thread, process = lines(f"""{FAIL}
import threading
thread = threading.Thread(target=fail, args=("SECRET-token",), name="helper")
thread.start()
thread.join()
fail("SECRET")
""")
    assert (thread["level"], thread["thread"], process["thread"]) == ("critical", "helper", "MainThread")
    assert thread["exception"][0]["exc_type"] == process["exception"][0]["exc_type"] == "RuntimeError"
    assert "SECRET" not in f"{thread}{process}"


def test_libraries_and_warnings_write_the_same_lines() -> None:
    library, warning, gunicorn = lines("""
logging.getLogger("asyncio").error("Task %s was\\ndestroyed", "x")
logging.getLogger("asyncio").info("of no interest")
warnings.warn("it is old")
logging.getLogger("gunicorn.error").addHandler(logging.StreamHandler())
logging.getLogger("gunicorn.error").propagate = False
logs.adopt(logging.getLogger("gunicorn.error"))
logging.getLogger("gunicorn.error").error("no service at /webhook/SECRET")
""")
    assert (library["event"], library["logger"], library["level"]) == ("Task x was\ndestroyed", "asyncio", "error")
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert "it is old" in warning["event"]
    assert (gunicorn["event"], gunicorn["logger"]) == ("no service at /webhook/…", "gunicorn.error")
    assert all("timestamp" in line for line in (library, warning, gunicorn))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("POST /webhook/SECRET?event=x", "POST /webhook/…?event=x"),
        ("POST /webhook?token=SECRET&event=x failed", "POST /webhook?token=…&event=x failed"),
        ("POST /webhook?token=SECRET?event=x", "POST /webhook?token=…?event=x"),
        ("POST /webhook/SECRET'S&\"SECRET/SECRET?event=x", "POST /webhook/…?event=x"),
        ("GET /?token=SECRET'S\"SECRET&event=x", "GET /?token=…&event=x"),
        ("GET /?event=x&token=SECRET", "GET /?event=x&token=…"),
        ("http://user:hunter2@host/webhook", "http://user:…@host/webhook"),
        ("Listening at: http://127.0.0.1:8000 (7)", "Listening at: http://127.0.0.1:8000 (7)"),
    ],
)
def test_a_webhook_s_address_is_logged_without_its_secret(text: str, shown: str) -> None:
    assert logs.without_secrets(text) == shown


def close_it() -> None:
    os.close(2)


WRITE = """
structlog.get_logger().error("it failed", action="test")
logging.getLogger("x").error("it failed")
"""


@pytest.mark.parametrize("prepare", ["", "import sys; sys.stderr and sys.stderr.close()", "import os; os.close(2)"])
@pytest.mark.parametrize("before", [None, close_it], ids=["open", "closed"])
def test_a_standard_error_that_is_closed_ends_nothing(prepare: str, before: Callable[[], None] | None) -> None:
    assert run(prepare + WRITE, preexec_fn=before).stdout == "alive\n"


@pytest.fixture(params=["full", "unread"])
def broken(request: pytest.FixtureRequest) -> Iterator[int]:
    """What cannot be written to: a full disk, and a pipe that nobody reads any more."""
    if request.param == "full":
        write = os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = os.pipe()
        os.close(read)
    yield write
    os.close(write)


def test_a_standard_error_that_cannot_be_written_ends_nothing(broken: int) -> None:
    done = run(WRITE * 500, stderr=broken)
    assert (done.stdout, done.returncode) == ("alive\n", 0)


def test_lines_stay_whole_where_there_was_no_room_for_a_while(tmp_path: Path) -> None:
    code = """
import resource
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (250, limits[1]))
for n in range(5):
    structlog.get_logger().error("no room", action="test", n=n)
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
structlog.get_logger().error("room", action="test")
"""
    with (tmp_path / "log").open("wb") as file:
        assert run(code, stderr=file).returncode == 0
    written = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["event"] for line in written] == ["no room"] * 5 + ["room"]


def test_no_file_takes_the_place_of_a_closed_standard_error() -> None:
    code = "import sys\nopened = open(sys.executable)\nassert opened.fileno() > 2, opened.fileno()"
    assert run(code, preexec_fn=close_it).stdout == "alive\n"


def test_a_terminal_shows_lines_for_eyes() -> None:
    ours, theirs = os.openpty()
    try:
        run(
            f"{FAIL}{WRITE}\ntry:\n    fail('SECRET')\nexcept RuntimeError:\n    logging.exception('odd')",
            stderr=theirs,
        )
        shown = os.read(ours, 65_536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "it failed" in shown
    assert "RuntimeError" in shown
    assert '{"' not in shown
    assert "'SECRET'" not in shown

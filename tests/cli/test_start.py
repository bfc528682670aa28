"""Where a process cannot start, it ends with one line and exit code 1."""

from __future__ import annotations

import os
import runpy
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from click.testing import CliRunner
from gunicorn.config import Config as GunicornConfig
from gunicorn.http import message
from gunicorn.http.errors import LimitRequestLine
from gunicorn.http.parser import RequestParser

from app import bootstrap, cli, counters, datadir, logs
from app.clock import now_ms
from app.config import load
from app.model import Connection
from app.store import dialect, presence
from app.store.opening import open_database

ROOT = Path(__file__).parents[2]
CONSOLE = "providers: {console: {type: console}}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the configuration that processes started here read."""

    def make(text: str = "") -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text + CONSOLE)
        monkeypatch.setenv("PUSHBRIDGE_CONFIG", str(path))
        return path

    return make


def garbage(folder: Path) -> str:
    (folder / "data").mkdir()
    (folder / "data" / "pushbridge.db").write_text("a note to myself, and no database\n" * 100)
    return "storage: {data_dir: data}\n"


def taken(folder: Path) -> str:
    (folder / "data").write_text("a file")
    return "storage: {data_dir: data}\n"


def impossible(_folder: Path) -> str:
    return "storage: {data_dir: /proc/inside}\n"


UNUSABLE = [garbage, taken, impossible]
COMMANDS = (["serve"], ["dispatch"], ["trace"], ["devices", "list"], ["dead-letters", "list"], ["send", "u"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Runs a command that must end with exit code 1; what it says then."""

    def nothing(*_: object) -> None:
        raise AssertionError("it started")

    monkeypatch.setattr(os, "execv", nothing)
    monkeypatch.setattr(bootstrap, "_stay_on_one_core", lambda _number: None)

    def invoke(*arguments: str) -> str:
        result = CliRunner().invoke(cli.main, arguments)
        assert result.exit_code == 1
        assert isinstance(result.exception, SystemExit), result.exception
        return result.output

    before = structlog.get_config()
    yield invoke
    structlog.configure(**before)  # else to what the runner takes away


def cannot_use(said: str, path: Path) -> bool:
    (line,) = said.splitlines()
    return line.startswith(f"pushbridge: {path}: storage.data_dir: cannot use ") and "; allowed: " in line


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("spoil", UNUSABLE, ids=lambda spoil: spoil.__name__)
def test_commands(
    write: Callable[[str], Path],
    run: Callable[..., str],
    tmp_path: Path,
    spoil: Callable[[Path], str],
    arguments: Sequence[str],
) -> None:
    path = write(spoil(tmp_path))
    assert cannot_use(run(*arguments), path)


@pytest.mark.parametrize("spoil", UNUSABLE, ids=lambda spoil: spoil.__name__)
def test_gunicorn(write: Callable[[str], Path], tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    path = write(spoil(tmp_path))
    command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert cannot_use(done.stderr, path), done.stderr


MASTER = "settings_or_exit()"
DISPATCHER = "dispatch(bootstrap.load_config())"
RUNS = "import gc, uvloop; from app import bootstrap; uvloop.run = lambda main: main.close(); bootstrap.{}; print({})"


@pytest.mark.parametrize("start", [MASTER, DISPATCHER], ids=["master", "dispatcher"])
def test_what_is_loaded_at_the_start_is_not_walked_by_the_garbage_collection(
    write: Callable[[str], Path], start: str
) -> None:
    write("presence: {suppress: none}\n")
    code = RUNS.format(start, "gc.get_freeze_count() > 9 * len(gc.get_objects())")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n", done.stderr


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another program keeps everybody out of the database."""
    monkeypatch.setattr(dialect, "BUSY", 0)
    open_database(tmp_path / "data").close()
    with closing(sqlite3.connect(tmp_path / "data" / "pushbridge.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        yield


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("arguments", [["serve"], ["dispatch"], ["trace"]], ids=lambda arguments: arguments[0])
def test_a_database_that_another_program_holds(
    write: Callable[[], Path], run: Callable[..., str], arguments: Sequence[str]
) -> None:
    path = write()
    said = run(*arguments)
    assert cannot_use(said, path)
    assert ": database is locked; " in said


@pytest.fixture(autouse=True)
def own_logs_and_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this process stay the tests'."""
    monkeypatch.setattr(logs, "configure", lambda: None)
    monkeypatch.setattr(counters, "share", lambda folder: None)


def gunicorn_settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(message, "MAX_REQUEST_LINE", message.MAX_REQUEST_LINE)  # put back afterwards
    monkeypatch.setattr(bootstrap, "_served", None)
    return runpy.run_path(str(ROOT / "gunicorn.conf.py"))


def test_gunicorn_has_everything_made_before_it_forks(
    write: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write()
    gunicorn_settings(monkeypatch)
    data = tmp_path / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert {file.name for file in data.iterdir()} == {"admin-token", "metrics", "pushbridge.db", "write.lock"}


def test_systemd_is_told_which_master_serves(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("dispatcher: {embedded: false}\n")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        gunicorn_settings(monkeypatch)["when_ready"](SimpleNamespace(log=None, LISTENERS=[]))
        assert systemd.recv(100) == f"MAINPID={os.getpid()}".encode()


class Endless:
    """A request line without an end, and how much of it was read."""

    def __init__(self, start: bytes) -> None:
        self._next = start
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.read += len(self._next)
            yield self._next
            self._next = b"x" * 8_192


@pytest.mark.parametrize("ended", [True, False])
def test_request_lines_are_bounded_and_long_uids_pass(
    write: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    write()
    settings = GunicornConfig()
    settings.set("limit_request_line", gunicorn_settings(monkeypatch)["limit_request_line"])
    path = f"/admin/v1/users/{quote('😀' * 16_384)}/devices/{quote('é' * 120)}"
    if ended:
        source = iter([f"GET {path} HTTP/1.1\r\nHost: bridge\r\n\r\n".encode()])
        assert next(RequestParser(settings, source, ("127.0.0.1", 1))).path == path
        return
    endless = Endless(b"GET /")
    with pytest.raises(LimitRequestLine):
        next(RequestParser(settings, iter(endless), ("127.0.0.1", 1)))
    assert endless.read < 300_000


def test_a_slot_that_there_is_not(write: Callable[[str], Path], run: Callable[..., str]) -> None:
    path = write("dispatcher: {processes: 2}\n")
    said = run("dispatch", "--slot", "7")
    assert said == f"pushbridge: {path}: dispatcher.processes: found slot 7; allowed: --slot from 0 to 1\n"


@pytest.mark.parametrize(
    ("bind", "said"),
    [
        ("127.0.0.1:8000", "webhooks at http://127.0.0.1:8000/webhook, "),
        ("unix:/run/pushbridge.sock", "webhooks at /webhook on unix:/run/pushbridge.sock, "),
    ],
)
def test_the_greeting_says_where_it_listens(write: Callable[[str], Path], bind: str, said: str) -> None:
    assert said in bootstrap.greeting(load(write(f"server: {{bind: '{bind}'}}\n"), {}))


def test_the_token_is_made_once(write: Callable[[], Path], tmp_path: Path) -> None:
    config = load(write(), {})
    token = datadir.admin_token(config)
    assert len(token) > 40
    assert datadir.admin_token(config) == token
    assert stat.S_IMODE((tmp_path / "data" / "admin-token").stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["admin-token"]


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_file_is_no_token(write: Callable[[], Path], tmp_path: Path, content: str) -> None:
    config = load(write(), {})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin-token").write_text(content)
    token = datadir.admin_token(config)
    assert len(token) > 40
    assert datadir.admin_token(config) == token


def test_whoever_is_first_makes_the_token(
    write: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw none; what the first put in place is whole at once, and the second takes it."""
    config = load(write(), {})
    link = os.link

    def link_second(made: str, file: Path) -> None:
        assert Path(made).read_text().strip()
        file.write_text("the token of the first\n")
        link(made, file)

    monkeypatch.setattr(os, "link", link_second)
    assert datadir.admin_token(config) == "the token of the first"
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["admin-token"]


def test_a_token_that_cannot_be_kept(write: Callable[[], Path], tmp_path: Path) -> None:
    path = write()
    (tmp_path / "data" / "admin-token").mkdir(parents=True)
    with pytest.raises(SystemExit) as caught, bootstrap.or_exit():
        bootstrap.prepare(load(path, {}))
    assert cannot_use(str(caught.value), path)
    assert ": admin-token: Is a directory; " in str(caught.value)


@pytest.mark.parametrize(("ttl", "believed"), [("1h", True), ("1m", False)])
def test_the_web_believes_for_as_long_as_is_configured(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ttl: str, believed: bool
) -> None:
    monkeypatch.setattr(bootstrap.logs, "configure", lambda: None)
    monkeypatch.setattr(bootstrap, "poker", lambda _config: lambda: None)  # its socket is closed with the process
    config = load(write(f"presence: {{ttl: {ttl}}}\nadmin: {{token: t}}\n"), {})
    with closing(open_database(tmp_path / "data")) as database, database.write() as connection:
        half_an_hour_ago = now_ms() - 1_800_000
        presence.put(connection, {"u": {0: Connection(online=True, since=half_an_hour_ago, seen=half_an_hour_ago)}})
    client = bootstrap.web(config).test_client()
    answer = client.get("/admin/v1/users/u/presence", headers={"Authorization": "Bearer t"})
    assert answer.get_json()["believed"] is believed

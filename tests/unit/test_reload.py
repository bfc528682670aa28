"""What a reload of gunicorn's settings keeps and what it takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import bootstrap, counters

GOOD = "providers:\n  console: {type: console}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of a master that has not read it yet."""
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    monkeypatch.setenv("PUSHBRIDGE_CONFIG", str(path))
    monkeypatch.setattr(counters, "share", lambda folder: None)  # this process's counters stay the tests'
    monkeypatch.setattr(bootstrap, "_served", None)
    return path


def test_a_start_with_a_fault_ends(file: Path) -> None:
    file.write_text("unheard_of: 1\n")
    with pytest.raises(SystemExit, match="unheard_of"):
        bootstrap.settings_or_exit()


def test_a_reload_takes_what_has_changed(file: Path) -> None:
    assert bootstrap.settings_or_exit()[0].server.workers == 2
    file.write_text(f"{GOOD}server: {{workers: 3}}\n")
    settings, changed = bootstrap.settings_or_exit()
    assert (settings.server.workers, changed) == (3, True)
    assert bootstrap.served_config() == settings


def test_a_reload_with_a_fault_changes_nothing_for_master_or_workers(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = bootstrap.settings_or_exit()
    for fault in ("unheard_of: 1\n", f"{GOOD}storage: {{data_dir: /dev/null/data}}\n"):
        file.write_text(fault)
        assert bootstrap.settings_or_exit() == (before, False)
        assert bootstrap.served_config() == before
        assert "not reloaded" in capsys.readouterr().out


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that another program listens on."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def test_a_reload_keeps_an_address_that_it_can_have_and_refuses_any_other(
    file: Path, taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reload(bind: str) -> bool:
        file.write_text(f"{GOOD}server: {{bind: '{bind}'}}\n")
        return bootstrap.settings_or_exit()[1]

    assert reload(taken)  # at the start gunicorn tries, and at a reload it keeps what it has
    assert reload(taken)
    capsys.readouterr()
    impossible = {
        taken.replace("127.0.0.1", "0.0.0.0"): "in use",
        "192.0.2.1:80": "assign",
        "[2001:db8::1]:80": "",
        "é..b:80": "hostname",
        f"unix:{file}": "no socket",
        f"unix:{tmp_path}/none/s": "No such file",
        f"unix:/{'x' * 200}": "too long",
    }
    for bind, why in impossible.items():
        assert not reload(bind)
        said = capsys.readouterr().out
        assert f"server.bind: cannot listen on {bind}: " in said
        assert why in said
    for bind in (f"unix:{tmp_path}/s", "127.0.0.1:0"):
        assert reload(bind)
    assert not (tmp_path / "s").exists()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{tmp_path}/s")
        assert reload(f"unix:{tmp_path}/s")
    assert bootstrap.served_config().server.bind == f"unix:{tmp_path}/s"

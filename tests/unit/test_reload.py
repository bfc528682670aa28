"""What a reload of gunicorn's settings keeps and what it takes."""

from __future__ import annotations

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

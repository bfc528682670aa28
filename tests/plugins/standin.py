"""The stand-in vendors as a fixture: one process for the whole run, as new for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.demo.standin import StandinProcess


@pytest.fixture(scope="session")
def standin_process(tmp_path_factory: pytest.TempPathFactory, soak: bool) -> Iterator[StandinProcess]:
    with StandinProcess(tmp_path_factory.mktemp("standin"), seconds=1_800 if soak else 600) as process:
        yield process


@pytest.fixture
def standin(standin_process: StandinProcess) -> StandinProcess:
    """APNs and FCM without records, scripts or connections from another test."""
    standin_process.reset()
    return standin_process

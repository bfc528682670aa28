from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.store.opening import open_database
from tests.web.bridge import Bridge


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty database: making the tables takes longer than most tests."""
    folder = tmp_path_factory.mktemp("empty")
    open_database(folder).close()
    return folder


@pytest.fixture
def store_folder(empty_store: Path, tmp_path: Path) -> Path:
    shutil.copytree(empty_store, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def bridged(store_folder: Path) -> Iterator[Callable[..., Bridge]]:
    """Makes bridges with other origins over one store."""
    made: list[Bridge] = []

    def make(**origin: Any) -> Bridge:
        made.append(Bridge(store_folder, **origin))
        return made[-1]

    yield make
    for bridge in made:
        bridge.database.close()


@pytest.fixture
def bridge(bridged: Callable[..., Bridge]) -> Bridge:
    """One that takes calls from the same machine and asks for no secret."""
    return bridged()

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.opening import open_database
from tests.web.admin.kit import Api


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty database: making the tables takes longer than most tests."""
    folder = tmp_path_factory.mktemp("blank")
    open_database(folder).close()
    return folder


@pytest.fixture
def api(blank: Path, tmp_path: Path) -> Iterator[Api]:
    shutil.copytree(blank, tmp_path, dirs_exist_ok=True)
    api = Api(tmp_path)
    yield api
    api.database.close()

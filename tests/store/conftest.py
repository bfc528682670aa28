"""One suite for every database: `URLS` names those that it runs on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from app.store.dialect import Database
from app.store.opening import open_database

URLS = {"sqlite": ""}
"""Database URLs by name; empty means the embedded one, which every test gets fresh."""


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest) -> str:
    return URLS[request.param]


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty database: making the tables takes longer than most tests."""
    folder = tmp_path_factory.mktemp("blank")
    open_database(folder).close()
    return folder


@pytest.fixture
def folder(blank: Path, tmp_path: Path) -> Path:
    shutil.copytree(blank, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def database(url: str, folder: Path) -> Iterator[Database]:
    opened = open_database(folder, url, "normal")
    yield opened
    opened.close()


@pytest.fixture
def db(database: Database) -> Iterator[Connection]:
    """One transaction that the whole test happens in."""
    with database.write() as connection:
        yield connection

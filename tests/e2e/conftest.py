from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.service import Service
from tests.e2e.wukongim import Server


@pytest.fixture
def start(tmp_path: Path, standin: StandinProcess) -> Iterator[Callable[..., Service]]:
    """Starts services with sections of the configuration changed; none is left behind."""
    started: list[Service] = []

    def begin(**sections: Any) -> Service:
        folder = tmp_path / f"service-{len(started)}"
        folder.mkdir()
        service = Service(folder, standin, **sections)
        started.append(service)
        return service.start()

    yield begin
    for service in started:
        service.kill()


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory, standin_process: StandinProcess) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("service"), standin_process)
    try:
        yield service.start()
    finally:
        service.kill()


@pytest.fixture
def service(shared_service: Service, standin: StandinProcess) -> Service:
    """A running service that tests of one module share: each uses users of its own."""
    return shared_service


@pytest.fixture
def wukongim() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.answer.set()
    server.shutdown()
    server.server_close()
    thread.join()

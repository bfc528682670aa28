import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from typing import Any

import pytest
import structlog
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# prometheus_client decides at import, for good, whether the processes of a service share their counters.
_folder = tempfile.mkdtemp(prefix="pushbridge-metrics-")
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

# Else a process that a test starts would not hold back what it writes, as it does everywhere else.
os.environ.pop("PYTHONUNBUFFERED", None)

pytest_plugins = ["tests.plugins.standin"]

# How long an example takes says more about the machine than about the code.
settings.register_profile("pushbridge", deadline=None, max_examples=30)
settings.load_profile("pushbridge")

# The tracebacks that it shows of itself are drawn for a third of a second, and some tests log many.
structlog.configure([structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])


BEGIN_WITH = ("e2e/test_faulty_provider", "e2e/test_memory", "e2e/test_crash", "dispatch/test_presence_orders", "e2e/")
"""The tests that take longest, most of them as they wait for processes: whatever begins last is waited for alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        return next((n for n, part in enumerate(BEGIN_WITH) if part in item.nodeid), len(BEGIN_WITH))

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests and all that they import stay to the end: no garbage collection is to walk them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


class OfOneFile(LoadFileScheduling):  # type: ignore[misc]
    """A file for a process, since its tests share a service; rounds of one test share nothing."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if "[round-" in nodeid else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OfOneFile:
    return OfOneFile(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long form of the tests that have one")


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> bool:
    """Whether a test marked `soak` is to run its long form."""
    return bool(request.config.getoption("--soak"))

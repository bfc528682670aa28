"""The OpenAPI document describes the API as it is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from app.model import Outcome
from app.store import deliveries, inbox
from app.store.inbox import Arrival
from app.store.rows import Delivery
from app.web import admin
from tests.web.admin.kit import START, TOKEN, Api, ok

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
EVERY, EVERY_SOAK = 5, 30
"""Generated cases an operation."""
OPERATIONS = [*(route.name for route in admin.ROUTES), "get_openapi"]


@pytest.fixture(scope="module")
def filled(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API that has something to show, whose providers take any token."""
    folder = shutil.copytree(blank, tmp_path_factory.mktemp("filled"), dirs_exist_ok=True)
    api = Api(folder, {"console": "console", "android": "fcm"})
    api.register("u", "d")
    with api.database.write() as connection:
        inbox.put(connection, [Arrival("msg.offline", b"{}", START, "normal", 1, True)])
        dead = {"provider": "android", "outcome": Outcome.DEAD, "event_id": 1, "first_at": START, "at": START}
        rows = [Delivery(message_id=number, uid="u", device_id="d", **dead) for number in range(1, 30)]  # type: ignore[arg-type]
        deliveries.insert_new(connection, rows)
    yield api
    api.database.close()


@pytest.fixture(scope="module")
def described(filled: Api) -> Any:
    """The document as schemathesis reads it."""
    return schemathesis.openapi.from_wsgi("/admin/v1/openapi.json", filled.app, headers=HEADERS)


def test_it_names_the_routes_that_there_are(api: Api) -> None:
    paths = ok(api.call("GET", "/openapi.json"))["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    routed = {
        (method, re.sub(r"<name:(\w+)>", r"{\1}", rule.rule))
        for rule in api.app.url_map.iter_rules()
        if rule.rule.startswith("/admin/")
        for method in (rule.methods or set()) - {"HEAD"}
    }
    assert documented == routed


def test_every_reference_leads_somewhere(api: Api) -> None:
    text = api.call("GET", "/openapi.json").text
    names = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    schemas = ok(api.call("GET", "/openapi.json"))["components"]["schemas"]
    assert names <= set(schemas)
    assert schemas["DeviceBody"]["properties"]["provider"] == {"enum": ["android", "console", "ios"]}


def test_what_is_done_one_at_a_time_says_so(api: Api) -> None:
    paths = ok(api.call("GET", "/openapi.json"))["paths"]
    refusing = {op["operationId"] for path in paths.values() for op in path.values() if "429" in op["responses"]}
    assert refusing == {"send_test", "import_devices", "restore_devices"}


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
    checks.unsupported_method,
    checks.allow_header_conformance,
    checks.ignored_auth,
]


@schemathesis.serializer("application/x-ndjson")
def as_it_is(_context: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.mark.soak
@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", OPERATIONS)
def test_it_behaves_as_it_is_described(described: Any, name: str, mode: GenerationMode, soak: bool) -> None:
    operation = described.find_operation_by_id(name)
    more = [checks.positive_data_acceptance]
    if mode is GenerationMode.NEGATIVE:
        # Any text is lines: what is wrong with them is said in a 200.
        more = [] if name == "import_devices" else [checks.negative_data_rejection]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EVERY_SOAK if soak else EVERY,
        database=None,
        derandomize=True,
        suppress_health_check=[*HealthCheck],
    )
    def generated(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=HEADERS, checks=[*CHECKS, *more])

    generated()

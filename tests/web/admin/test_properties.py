"""Whatever is sent: no 500, no change after a refusal, no good line lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse as Answer

from tests.web.admin.kit import Api, ok, refused

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
device_ids = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
tags = st.from_regex(r"\A[a-z]{2,3}(-[A-Za-z0-9]{1,8}){0,2}\Z")
one_line = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=60)

devices = st.fixed_dictionaries(
    {"provider": st.sampled_from(["console", "android"]), "token": one_line},
    optional={
        "locale": tags,
        "device_flag": st.integers(0, 255),
        "voip_token": one_line,
        "app_version": one_line,
    },
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text("\ud800\udfff\0a")
anything = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
FIELDS = [
    "provider",
    "token",
    "locale",
    "device_flag",
    "voip_token",
    "app_version",
    "uid",
    "device_id",
    "name",
    "show_content",
]
spoiled = st.builds(
    lambda good, key, value: {**good, key: value}, devices, st.sampled_from(FIELDS) | st.text(max_size=5), anything
)
bodies = (devices | spoiled | anything).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200)

few = settings(max_examples=60, database=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def api(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(shutil.copytree(blank, tmp_path_factory.mktemp("properties"), dirs_exist_ok=True))
    yield api
    api.database.close()


def unchanged_if_refused(api: Api, send: Callable[[], Answer]) -> bool:
    """Send; False where it was refused, as it should be: with a reason, and without a trace."""
    before = api.everything()
    response = send()
    if response.status_code in (200, 201):
        return True
    message = refused(response)
    assert "allowed" in message or "not available yet" in message
    assert "\n" not in message
    assert api.everything() == before
    return False


@few
@given(uid=ids, device_id=device_ids, body=devices)
def test_a_good_device_is_kept_as_it_was_sent(api: Api, uid: str, device_id: str, body: dict[str, Any]) -> None:
    assert api.register(uid, device_id, **body) in (200, 201)
    shown = ok(api.call("GET", "/users/{}/devices/{}", uid, device_id))
    assert (shown["uid"], shown["device_id"]) == (uid, device_id)
    for name in ("provider", "locale", "device_flag", "app_version"):
        assert shown[name] == body.get(name, 0 if name == "device_flag" else "")


@few
@given(body=bodies)
def test_any_device_body(api: Api, body: bytes) -> None:
    unchanged_if_refused(api, lambda: api.call("PUT", "/users/u/devices/d", data=body))


@few
@given(body=bodies, method=st.sampled_from(["PUT", "PATCH"]))
def test_any_settings_body(api: Api, body: bytes, method: str) -> None:
    if unchanged_if_refused(api, lambda: api.call(method, "/users/u/settings", data=body)):
        sent = json.loads(body)
        now = ok(api.call("GET", "/users/u/settings"))
        assert {name: now[name] for name in sent} == sent


@few
@given(body=bodies)
def test_any_channel_body(api: Api, body: bytes) -> None:
    unchanged_if_refused(api, lambda: api.call("PUT", "/channels/2/g", data=body))


@few
@given(uid=st.binary(max_size=40), rest=st.binary(max_size=40))
def test_any_path(api: Api, uid: bytes, rest: bytes) -> None:
    path = "/admin/v1/users/" + "".join(f"%{byte:02x}" for byte in uid) + "/devices/" + rest.decode("latin-1")
    environ = {"RAW_URI": path, "REQUEST_URI": path}
    response = api.call("GET", "/users/u/devices/d", environ_overrides=environ)
    assert response.status_code in (200, 400, 404)
    assert response.content_type == "application/json"


@few
@given(
    query=st.dictionaries(st.sampled_from(["uid", "message_id", "outcome", "limit", "before"]) | st.text(), st.text())
)
def test_any_query(api: Api, query: dict[str, str]) -> None:
    response = api.call("GET", "/trace", query_string=query)
    assert response.status_code in (200, 400)


good_lines = st.builds(
    lambda body, uid, device_id: {**body, "uid": uid, "device_id": device_id}, devices, ids, device_ids
)
bad_lines = st.one_of(
    st.binary(min_size=1, max_size=40).filter(lambda line: b"\n" not in line and line.strip()),
    st.builds(
        lambda line, name: {k: v for k, v in line.items() if k != name}, good_lines, st.sampled_from(["uid", "token"])
    ),
    st.builds(lambda line: {**line, "provider": "nobody"}, good_lines),
    st.builds(lambda line, extra: {**line, f"x{extra}": 1}, good_lines, st.text(max_size=4)),
    st.builds(lambda line: {**line, "device_id": "é" * 121}, good_lines),
)


@few
@given(
    lines=st.lists(st.tuples(st.just(True), good_lines) | st.tuples(st.just(False), bad_lines), min_size=1, max_size=12)
)
def test_a_bad_line_spoils_no_other(api: Api, lines: list[tuple[bool, Any]]) -> None:
    sent = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for _, line in lines)
    result = ok(api.call("POST", "/devices/import", data=sent))
    assert [error["line"] for error in result["errors"]] == [n for n, (good, _) in enumerate(lines, 1) if not good]
    good_ones = [line for good, line in lines if good]
    assert result["imported"] == len(good_ones)
    last_owner = {(line["provider"], line["token"]): (line["uid"], line["device_id"]) for line in good_ones}
    last_body = {(line["uid"], line["device_id"]): line for line in good_ones}
    for key, line in last_body.items():
        if last_owner[line["provider"], line["token"]] == key:
            assert ok(api.call("GET", "/users/{}/devices/{}", *key))["provider"] == line["provider"]

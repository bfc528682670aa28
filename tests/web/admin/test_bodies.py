"""Bodies that one reader takes in one way and another in another, or not at all."""

from __future__ import annotations

import pytest

from tests.web.admin.kit import Api, ok, refused

LINE = b'{"uid":"u","device_id":"d","provider":"console","token":"t"}'


@pytest.mark.parametrize("body", [b'{"name":"a","name":"b"}', b'{"name":"a","\\u006eame":"a"}'])
def test_a_key_given_twice(api: Api, body: bytes) -> None:
    before = api.everything()
    for method in ("PUT", "PATCH"):
        said = refused(api.call(method, "/users/u/settings", data=body))
        assert said == "body: found the key 'name' twice; allowed: once"
    assert api.everything() == before


def test_a_key_given_twice_in_a_line(api: Api) -> None:
    answer = ok(api.call("POST", "/devices/import", data=LINE[:-1] + b',"uid":"v"}\n' + LINE))
    assert answer["imported"] == 1
    assert answer["errors"] == [{"line": 1, "message": "body: found the key 'uid' twice; allowed: once"}]


@pytest.mark.parametrize("text", [r"\ud800", r"a\udc00b", r"\ud83d\ud83d\ude00", r"\udc00\ud800"])
def test_half_a_surrogate_pair(api: Api, text: str) -> None:
    said = refused(api.call("PUT", "/users/u/settings", data=b'{"name":"%s"}' % text.encode()))
    assert said == "body: found no valid JSON (half of a surrogate pair, which is no Unicode); allowed: a JSON object"


@pytest.mark.parametrize("body", [b'{"name":"\\ud83d\\ude00"', b'{"name":"x', b'{"name":"\\ud800'])
def test_a_body_that_breaks_off(api: Api, body: bytes) -> None:
    refused(api.call("PUT", "/users/u/settings", data=body), "Input data was truncated")


def test_a_body_that_is_nested_too_deeply(api: Api) -> None:
    for depth in (900, 990, 100_000 // 4):
        body = b'{"x":' + b"[" * depth + b"]" * depth + b"}"
        refused(api.call("PUT", "/users/u/settings", data=body))


def test_a_body_that_is_no_utf_8(api: Api) -> None:
    refused(api.call("PUT", "/users/u/settings", data=b'{"name":"\xed\xa0\x80"}'), "invalid UTF-8 at byte ")

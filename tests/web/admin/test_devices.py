"""Registering devices, one by one and in bulk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse as Answer

from app.admin import importing
from app.admin.devices import RestoreBody, restore
from app.store import devices
from app.store.rows import Drop, Touch
from app.web import admin
from tests.web.admin.kit import PROVIDERS, START, Api, ok, refused

CHUNKED = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}
"""A body whose length is not announced, as gunicorn gives it."""
GOOD = {"provider": "console", "token": "t" * 30}
RESTORE = {"provider": "console", "since": "1h"}


def test_register_then_change(api: Api) -> None:
    body = {**GOOD, "locale": "zh-Hans-CN", "device_flag": 2, "voip_token": "v" * 30, "app_version": "1.2"}
    first = ok(api.call("PUT", "/users/u/devices/d", body=body), 201)
    assert first == {
        "uid": "u",
        "device_id": "d",
        "provider": "console",
        "token": "tttt…tttt",
        "locale": "zh-Hans-CN",
        "device_flag": 2,
        "voip_token": "vvvv…vvvv",
        "app_version": "1.2",
        "registered_at": "2023-11-14T22:13:20.000Z",
        "updated_at": "2023-11-14T22:13:20.000Z",
    }
    api.now = START + 1_500
    again = ok(api.call("PUT", "/users/u/devices/d", body=body))
    assert again == {**first, "registered_at": "2023-11-14T22:13:21.500Z"}
    changed = ok(api.call("PUT", "/users/u/devices/d", body=GOOD))
    assert changed["updated_at"] == changed["registered_at"] == "2023-11-14T22:13:21.500Z"
    assert changed["locale"] == changed["voip_token"] == ""
    assert api.devices("u") == [changed]


def test_a_success_is_shown_and_is_no_change(api: Api) -> None:
    before = ok(api.call("PUT", "/users/u/devices/d", body=GOOD), 201)
    with api.database.write() as connection:
        devices.touch(connection, [Touch("u", "d", "console", GOOD["token"], START + 1_000)])
    success = {"succeeded_at": "2023-11-14T22:13:21.000Z"}
    assert api.devices("u") == [before | success]
    api.now = START + 1_500
    again = ok(api.call("PUT", "/users/u/devices/d", body=GOOD))
    assert again == before | success | {"registered_at": "2023-11-14T22:13:21.500Z"}
    assert api.devices("u") == [again]


def test_a_token_moves_to_its_new_owner(api: Api) -> None:
    assert api.register("old", "phone") == 201
    assert api.register("new", "phone") == 201
    assert api.devices("old") == []
    assert api.register("new", "phone-2") == 201
    assert [device["device_id"] for device in api.devices("new")] == ["phone-2"]
    assert api.register("other", "phone", provider="android") == 201
    assert len(api.devices("new")) == 1


def test_look_up_and_delete(api: Api) -> None:
    api.register("u", "d")
    assert ok(api.call("GET", "/users/u/devices/d"))["device_id"] == "d"
    response = api.call("DELETE", "/users/u/devices/d")
    assert response.status_code == 204
    assert response.data == b""
    for method in ("GET", "DELETE"):
        refused(api.call(method, "/users/u/devices/d"), "no device", status=404)
    assert api.devices("nobody") == []


def quarantine(api: Api, uid: str, token: str = "t" * 30, at: int = START, provider: str = "console") -> None:
    """What a dispatcher does when the vendor calls a token dead."""
    with api.database.write() as connection:
        assert devices.drop(connection, [Drop(uid, "d", provider, token, START + 1, "Unregistered")], at) == 1


REMOVED = {"removed_at": "2023-11-14T22:13:20.000Z", "removed_reason": "Unregistered"}


def test_a_device_in_quarantine_is_listed_where_it_is_asked_for(api: Api) -> None:
    api.register("u", "d")
    api.register("u", "other", token="q" * 30)
    before = ok(api.call("GET", "/users/u/devices/d"))
    quarantine(api, "u")
    assert [each["device_id"] for each in api.devices("u")] == ["other"]
    refused(api.call("GET", "/users/u/devices/d"), "no device", status=404)
    for query in ("", "?removed=false"):
        assert len(ok(api.call("GET", f"/users/u/devices{query}"))["devices"]) == 1
    listed = ok(api.call("GET", "/users/u/devices?removed=true"))["devices"]
    assert listed == [before | REMOVED, *api.devices("u")]
    assert ok(api.call("GET", "/stats"))["devices"] == {"console": 1}
    for query in ("yes", "True", "1", ""):
        refused(api.call("GET", f"/users/u/devices?removed={query}"), "removed", "true or false")


def test_a_device_returns_from_quarantine_by_registering_again(api: Api) -> None:
    api.register("u", "d")
    quarantine(api, "u")
    api.now = START + 1_500
    again = ok(api.call("PUT", "/users/u/devices/d", body=GOOD), 201)
    assert again["registered_at"] == again["updated_at"] == "2023-11-14T22:13:21.500Z"
    assert ok(api.call("GET", "/users/u/devices?removed=true"))["devices"] == [again]
    assert api.register("u", "d") == 200


def test_a_token_returns_from_quarantine_under_another_user(api: Api) -> None:
    api.register("u", "d")
    quarantine(api, "u")
    assert imported(api, line(1, token="t" * 30))["imported"] == 1
    assert ok(api.call("GET", "/users/u/devices?removed=true"))["devices"] == []
    assert len(api.devices("u1")) == 1


def test_deleting_what_is_in_quarantine(api: Api) -> None:
    api.register("u", "d")
    quarantine(api, "u")
    assert api.call("DELETE", "/users/u/devices/d").status_code == 204
    assert ok(api.call("GET", "/users/u/devices?removed=true"))["devices"] == []
    assert ok(api.call("POST", "/devices/restore", body={"provider": "console", "since": "1h"})) == {"restored": 0}


def test_devices_that_looked_dead_are_restored(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.admin.devices.RESTORED_TOGETHER", 2)
    hour = 3_600_000
    api.now = START + hour
    for number in range(7):
        api.register(f"u{number}", "d", token=f"token-{number}", provider="android" if number == 6 else "console")
    with api.database.write() as connection:
        for number in range(7):
            provider = "android" if number == 6 else "console"
            gone = Drop(f"u{number}", "d", provider, f"token-{number}", api.now + 1, "BadDeviceToken")
            devices.drop(connection, [gone], START + number)
    before = ok(api.call("GET", "/users/u1/devices?removed=true"))["devices"][0]
    api.now = START + hour + 1
    assert ok(api.call("POST", "/devices/restore", body={"provider": "console", "since": "1h"})) == {"restored": 5}
    restored = api.devices("u1")
    assert restored == [{name: value for name, value in before.items() if not name.startswith("removed")}]
    assert [number for number in range(7) if not api.devices(f"u{number}")] == [0, 6]
    body = {"provider": "console", "since": "2023-11-14T22:13:20Z"}
    assert ok(api.call("POST", "/devices/restore", body=body)) == {"restored": 1}


def test_a_restore_lets_others_write_for_as_long_as_it_did(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.admin.devices.RESTORED_TOGETHER", 2)
    for number in range(5):
        api.register(f"u{number}", "d", token=f"token-{number}")
        quarantine(api, f"u{number}", f"token-{number}")
    took: list[float | None] = []
    pauses: list[float] = []
    api.database.observe = took.append
    assert restore(api.database, RestoreBody(**RESTORE), PROVIDERS, START, pauses.append) == 5
    assert (len(took), len(pauses)) == (3, 2)
    assert all(write is not None and pause >= write for write, pause in zip(took, pauses, strict=False))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"since": "1h"}, ("provider", "missing")),
        ({"provider": "console"}, ("since", "missing")),
        ({"provider": "nobody", "since": "1h"}, ("provider", "android, console, ios")),
        ({"provider": "console", "since": "yesterday"}, ("since", "RFC 3339", "1h")),
        ({"provider": "console", "since": "1 h"}, ("since", "RFC 3339")),
        ({"provider": "console", "since": 1}, ("since", "a whole number")),
    ],
)
def test_a_restore_that_is_refused(api: Api, body: Any, words: tuple[str, ...]) -> None:
    api.register("u", "d")
    quarantine(api, "u")
    before = api.everything()
    refused(api.call("POST", "/devices/restore", body=body), *words)
    assert api.everything() == before


@pytest.mark.parametrize("length", [1, 8, 23, 24, 4096])
def test_a_token_is_never_shown_whole(api: Api, length: int) -> None:
    token = "".join(chr(0x4E00 + n % 5000) for n in range(length))
    api.register("u", "d", token=token, voip_token=token)
    shown = api.devices("u")[0]
    assert shown["token"] == shown["voip_token"]
    assert len(shown["token"]) <= 9
    assert token not in api.call("GET", "/users/u/devices").text


BAD_BODIES: list[tuple[Any, tuple[str, ...]]] = [
    ({}, ("provider", "missing")),
    ({"provider": "console"}, ("token", "missing")),
    ({**GOOD, "provider": "nobody"}, ("provider", "android, console, ios")),
    ({**GOOD, "provider": 1}, ("provider", "found a whole number")),
    ({**GOOD, "token": ""}, ("token", "0 characters", "1 to 4096")),
    ({**GOOD, "token": "x" * 4097}, ("token", "4097 characters")),
    ({**GOOD, "token": "a\nb"}, ("token", "another form")),
    ({**GOOD, "token": None}, ("token", "found nothing")),
    ({**GOOD, "token": ["t"]}, ("token", "found an array")),
    ({**GOOD, "locale": "en\n"}, ("locale", "zh-Hans-CN")),
    ({**GOOD, "locale": "e"}, ("locale", "zh-Hans-CN")),
    ({**GOOD, "locale": "en-" * 30 + "US"}, ("locale", "92 characters")),
    ({**GOOD, "device_flag": -1}, ("device_flag", "out of range", "0 to 255")),
    ({**GOOD, "device_flag": 256}, ("device_flag", "out of range")),
    ({**GOOD, "device_flag": 10**400}, ("device_flag", "out of range")),
    ({**GOOD, "device_flag": True}, ("device_flag", "true or false")),
    ({**GOOD, "device_flag": 1.5}, ("device_flag", "a fraction")),
    ({**GOOD, "device_flag": 1e300}, ("device_flag", "out of range")),
    ({**GOOD, "device_flag": "1"}, ("device_flag", "a text")),
    ({**GOOD, "app_version": "x" * 65}, ("app_version", "65 characters")),
    ({**GOOD, "uid": "u"}, ("uid", "unknown", "provider, token, locale")),
    ({**GOOD, "\x1b[2J": 1}, ("?[2J", "unknown")),
    ({**GOOD, "provider": "ios"}, ("token", "hexadecimal")),
    ({**GOOD, "provider": "ios", "token": "ab", "voip_token": "xyz"}, ("voip_token", "hexadecimal")),
    ([], ("body", "found an array")),
    (None, ("body", "found nothing")),
    ("text", ("body", "found a text")),
]


@pytest.mark.parametrize(("body", "words"), BAD_BODIES, ids=lambda value: str(value)[:30])
def test_a_bad_body_is_refused_and_changes_nothing(api: Api, body: Any, words: tuple[str, ...]) -> None:
    api.register("u", "d", token="before" * 5)
    before = api.everything()
    refused(api.call("PUT", "/users/u/devices/d", data=json.dumps(body).encode()), *words)
    assert api.everything() == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b"{",
        b"NaN",
        b'{"provider":NaN}',
        b"\xff\xfe",
        b'{"provider":"\xff"}',
        rb'{"provider":"console","token":"\ud800"}',
        rb'{"provider":"console","token":"\udc00x"}',
        b'{"provider":"console","token":"\xed\xa0\x80"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 60_000,
        b"\xef\xbb\xbf{}",
        b"provider=console&token=t",
    ],
    ids=lambda data: ascii(data[:24]),
)
def test_what_is_no_json_is_refused(api: Api, data: bytes) -> None:
    before = api.everything()
    refused(api.call("PUT", "/users/u/devices/d", data=data), "body")
    assert api.everything() == before


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [admin.MAX_BODY + 1, 10 << 20])
def test_a_body_that_is_too_long(api: Api, length: int, chunked: bool) -> None:
    data = json.dumps(GOOD).encode().ljust(length)
    how: dict[str, Any] = {"data": data}
    if chunked:
        how = {"input_stream": io.BytesIO(data), "environ_overrides": CHUNKED}
    refused(api.call("PUT", "/users/u/devices/d", **how), "body", str(admin.MAX_BODY), status=413)
    assert api.devices("u") == []


def test_a_body_as_long_as_may_be(api: Api) -> None:
    data = json.dumps(GOOD).encode().ljust(admin.MAX_BODY)
    assert api.call("PUT", "/users/u/devices/d", data=data).status_code == 201


def test_a_number_may_be_written_as_a_fraction(api: Api) -> None:
    assert api.register("u", "d", device_flag=99.0) == 201
    assert api.devices("u")[0]["device_flag"] == 99


def test_a_short_token_is_not_shown_at_all(api: Api) -> None:
    assert api.register("u", "d", token="x" * 23) == 201
    assert api.devices("u")[0]["token"] == "…"


def test_an_apns_token_is_one_phone_in_either_case(api: Api) -> None:
    assert api.register("u", "d", provider="ios", token="aBcD" * 16) == 201
    assert api.register("v", "d", provider="ios", token="AbCd" * 16) == 201
    with api.database.read() as connection:
        assert devices.of_users(connection, ["u"]) == {}
        assert devices.of_users(connection, ["v"])["v"][0].token == "abcd" * 16


def line(number: int, **more: Any) -> bytes:
    return json.dumps({**GOOD, "token": f"token-{number}", "uid": f"u{number}", "device_id": "d", **more}).encode()


def imported(api: Api, data: bytes | None, **more: Any) -> Any:
    return ok(api.call("POST", "/devices/import", data=data, **more))


def test_import(api: Api) -> None:
    good = [line(number) for number in range(2 * importing.BATCH + 10)]
    data = b"\n".join([*good[:5], b"nonsense", b"", line(5, uid=""), line(5, extra=1), b"\xff", *good[5:]])
    result = imported(api, data)
    assert result["imported"] == len(good)
    assert [error["line"] for error in result["errors"]] == [6, 8, 9, 10]
    assert [error["message"].split(":")[0] for error in result["errors"]] == ["body", "uid", "extra", "body"]
    assert result["more_errors"] == 0
    assert all(len(api.devices(f"u{number}")) == 1 for number in (0, 5, len(good) - 1))


def test_an_import_lets_others_write_for_as_long_as_it_did(api: Api) -> None:
    took: list[float | None] = []
    pauses: list[float] = []
    api.database.observe = took.append
    some = [line(number) for number in range(2 * importing.BATCH + 10)]
    importing.register_lines(api.database, some, PROVIDERS, lambda: START, pauses.append)
    assert (len(took), len(pauses)) == (3, 2)
    assert all(write is not None and pause >= write for write, pause in zip(took, pauses, strict=False))


def test_an_import_is_done_in_its_order(api: Api) -> None:
    result = imported(api, b"\r\n".join([line(1), line(1, locale="zh"), line(1, uid="other"), b""]))
    assert result == {"imported": 3, "errors": [], "more_errors": 0}
    assert api.devices("u1") == []
    assert len(api.devices("other")) == 1


def test_an_import_lists_a_bounded_number_of_errors(api: Api) -> None:
    result = imported(api, b"x\n" * 1_500 + line(1))
    assert (result["imported"], len(result["errors"]), result["more_errors"]) == (1, 1_000, 500)


def test_a_line_too_long_spoils_no_other(api: Api) -> None:
    long = b'{"uid":"' + b"x" * (3 * importing.MAX_LINE) + b'"}'
    result = imported(api, b"\n".join([line(1), long, line(2), long]))
    assert result["imported"] == 2
    assert [error["line"] for error in result["errors"]] == [2, 4]
    assert all(str(importing.MAX_LINE) in error["message"] for error in result["errors"])


def test_a_line_as_long_as_may_be(api: Api) -> None:
    full = line(1).ljust(importing.MAX_LINE)
    assert imported(api, full + b"\n" + line(2))["imported"] == 2


class Meanwhile(io.BytesIO):
    """A body; something happens when it is begun to be read."""

    def __init__(self, data: bytes, happens: Callable[[], None]) -> None:
        super().__init__(data)
        self._happens = happens

    def readinto(self, buffer: Any) -> int:
        if self.tell() == 0:
            self._happens()
        return super().readinto(buffer)


def refused_for_now(answers: list[Answer]) -> None:
    assert len(answers) == 2
    for answer in answers:
        refused(answer, "import or restore", "try again", status=429)
        assert answer.get_json()["error"]["code"] == "too_many_requests"
        assert int(answer.headers["Retry-After"]) > 0


def test_while_devices_are_imported_no_others_are_and_none_restored(api: Api) -> None:
    answers: list[Answer] = []

    def others() -> None:
        answers.append(api.call("POST", "/devices/import", data=line(2)))
        answers.append(api.call("POST", "/devices/restore", body=RESTORE))

    body = Meanwhile(line(1), others)
    assert imported(api, None, input_stream=body, environ_overrides=CHUNKED)["imported"] == 1
    refused_for_now(answers)
    assert api.devices("u2") == []
    refused(api.call("POST", "/devices/import", data=b""), "nothing")
    assert imported(api, line(2))["imported"] == 1
    assert ok(api.call("POST", "/devices/restore", body=RESTORE)) == {"restored": 0}


def test_while_devices_are_restored_none_are_imported_and_no_others_restored(api: Api) -> None:
    answers: list[Answer] = []

    def others(_took: float | None) -> None:
        api.database.observe = lambda _: None
        answers.append(api.call("POST", "/devices/import", data=line(1)))
        answers.append(api.call("POST", "/devices/restore", body=RESTORE))

    api.database.observe = others
    assert ok(api.call("POST", "/devices/restore", body=RESTORE)) == {"restored": 0}
    refused_for_now(answers)
    assert api.devices("u1") == []
    refused(api.call("POST", "/devices/restore", body={**RESTORE, "since": "noon"}), "since")
    assert imported(api, line(1))["imported"] == 1


def test_one_registration_waits_for_no_import(api: Api) -> None:
    statuses: list[int] = []
    body = Meanwhile(line(1), lambda: statuses.append(api.register("u", "d")))
    imported(api, None, input_stream=body, environ_overrides=CHUNKED)
    assert statuses == [201]


def test_an_import_of_nothing(api: Api) -> None:
    refused(api.call("POST", "/devices/import", data=b""), "body", "nothing")


def test_an_import_that_is_announced_too_long_is_refused_unread(api: Api) -> None:
    response = api.call(
        "POST",
        "/devices/import",
        input_stream=io.BytesIO(line(1)),
        environ_overrides={"CONTENT_LENGTH": str(admin.MAX_IMPORT + 1)},
    )
    refused(response, "body", status=413)
    assert api.devices("u1") == []


def test_an_import_that_turns_out_too_long_keeps_what_came_before(api: Api) -> None:
    blank = b" " * 60_000 + b"\n"
    number = admin.MAX_IMPORT // len(blank) + 10
    stream = io.BytesIO(line(1) + b"\n" + blank * number + line(2))
    result = imported(api, None, input_stream=stream, environ_overrides=CHUNKED)
    assert result["imported"] == 1
    (error,) = result["errors"]
    assert number - 12 < error["line"] < number
    assert "not read" in error["message"]

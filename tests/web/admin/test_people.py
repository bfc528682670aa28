"""Settings, channel names, presence."""

from __future__ import annotations

from typing import Any

import pytest

from app.model import Connection
from app.store import presence
from tests.web.admin.kit import START, TTL, Api, ok, refused

DEFAULTS = {"name": "", "locale": "", "show_content": None}


def test_settings_of_an_unknown_user_are_the_defaults(api: Api) -> None:
    before = api.everything()
    assert ok(api.call("GET", "/users/{}/settings", "nobody")) == DEFAULTS
    assert ok(api.call("PATCH", "/users/{}/settings", "nobody", body={})) == DEFAULTS
    assert api.everything() == before


def test_put_replaces_and_patch_changes(api: Api) -> None:
    whole = {"name": "Ann 安", "locale": "en", "show_content": False}
    assert ok(api.call("PUT", "/users/u/settings", body=whole)) == whole
    assert ok(api.call("PATCH", "/users/u/settings", body={"locale": "zh"})) == {**whole, "locale": "zh"}
    assert ok(api.call("PATCH", "/users/u/settings", body={"show_content": None, "name": ""})) == {
        "name": "",
        "locale": "zh",
        "show_content": None,
    }
    assert ok(api.call("PUT", "/users/u/settings", body={"name": "Bob"})) == {**DEFAULTS, "name": "Bob"}
    assert ok(api.call("GET", "/users/u/settings")) == {**DEFAULTS, "name": "Bob"}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "x" * 256}, ("name", "256 characters", "up to 255")),
        ({"name": "a\x00b"}, ("name", "control characters")),
        ({"name": None}, ("name", "nothing")),
        ({"locale": "x" * 65}, ("locale", "65")),
        ({"show_content": 1}, ("show_content", "a whole number", "true or false or null")),
        ({"show_content": "no"}, ("show_content", "a text")),
        ({"muted_until": None}, ("muted_until", "not available yet")),
        ({"name": "x", "quiet_hours": {}}, ("quiet_hours", "not available yet")),
        ({"nickname": "x"}, ("nickname", "unknown", "name, locale, show_content")),
        ([], ("body", "an array")),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_settings_change_nothing(api: Api, method: str, body: Any, words: tuple[str, ...]) -> None:
    api.call("PUT", "/users/u/settings", body={"name": "before"})
    before = api.everything()
    refused(api.call(method, "/users/u/settings", body=body), *words)
    assert api.everything() == before


@pytest.mark.parametrize("channel_id", ["g", "a/b", "..", "群", "c" * 5000])
def test_channels(api: Api, channel_id: str) -> None:
    path = "/channels/2/{}"
    refused(api.call("GET", path, channel_id), "no name", status=404)
    shown = {"channel_type": 2, "channel_id": channel_id, "name": "Friends"}
    assert ok(api.call("PUT", path, channel_id, body={"name": "Friends"}), 201) == shown
    assert ok(api.call("PUT", path, channel_id, body={"name": "Foes"})) == {**shown, "name": "Foes"}
    assert ok(api.call("GET", path, channel_id))["name"] == "Foes"
    refused(api.call("GET", "/channels/3/{}", channel_id), status=404)
    assert api.call("DELETE", path, channel_id).status_code == 204
    refused(api.call("DELETE", path, channel_id), status=404)


def test_a_channel_needs_a_name(api: Api) -> None:
    for body in ({}, {"name": ""}, {"name": "x" * 256}, {"name": "a\tb"}, {"name": "x", "more": 1}):
        refused(api.call("PUT", "/channels/2/g", body=body))
    refused(api.call("GET", "/channels/2/g"), status=404)


def test_presence(api: Api) -> None:
    assert ok(api.call("GET", "/users/u/presence")) == {"online": False, "believed": False, "devices": []}
    known = {
        1: Connection(online=False, since=START, seen=START),
        0: Connection(online=True, since=START + 1, seen=START + 5),
    }
    with api.database.write() as connection:
        presence.put(connection, {"u": known})
    assert ok(api.call("GET", "/users/u/presence")) == {
        "online": True,
        "believed": True,
        "devices": [
            {"device_flag": 0, "online": True, "since": "2023-11-14T22:13:20.001Z"},
            {"device_flag": 1, "online": False, "since": "2023-11-14T22:13:20.000Z"},
        ],
    }


def test_an_old_online_record_is_shown_and_not_believed(api: Api) -> None:
    with api.database.write() as connection:
        presence.put(connection, {"u": {0: Connection(online=True, since=START, seen=START + 5)}})

    def said() -> tuple[bool, bool]:
        shown = ok(api.call("GET", "/users/u/presence"))
        return shown["online"], shown["believed"]

    api.now = START + 5 + TTL
    assert said() == (True, True)
    api.now += 1
    assert said() == (True, False)

"""Who may call, and how ids come through paths."""

from __future__ import annotations

import pytest

from app.store import devices
from app.web import admin
from tests.web.admin.kit import TOKEN, Api, ok, refused

UIDS = ["u", "a/b", "/", "//", "..", ".", "%2F", "%", "a b", "+", "😀", "\x00x", "é?#;&", "a%41", "u-1-2", "x" * 16_384]


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer \xff"],
)
def test_without_the_token_nothing_is_said(api: Api, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/users/u/devices", "/stats", "/openapi.json", "/users/%ff/devices"):
        response = api.client.get(f"/admin/v1{path}", headers=headers)
        refused(response, "Bearer", status=401)
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_scheme_is_compared_without_case(api: Api) -> None:
    assert api.client.get("/admin/v1/stats", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("uid", UIDS, ids=lambda uid: ascii(uid[:8]))
def test_any_id_works_in_a_path(api: Api, uid: str) -> None:
    for device_id in ("d", "..", "/", "a/b", "%", "é" * 120):
        assert api.register(uid, device_id, token=f"token of {device_id}") == 201
        assert ok(api.call("GET", "/users/{}/devices/{}", uid, device_id))["device_id"] == device_id
        assert api.call("DELETE", "/users/{}/devices/{}", uid, device_id).status_code == 204
    assert api.register(uid, "d") == 201
    assert [device["uid"] for device in api.devices(uid)] == [uid]
    with api.database.read() as connection:
        assert [device.uid for device in devices.all_of(connection, None, 10)] == [uid]


def test_ids_are_not_confused(api: Api) -> None:
    for number, uid in enumerate(UIDS):
        assert api.register(uid, "d", token=f"token {number}") == 201
    assert all(len(api.devices(uid)) == 1 for uid in UIDS)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/users//devices", ("uid", "1 to 16384 characters")),
        ("/users/%ff/devices", ("uid", "no UTF-8")),
        ("/users/%ED%A0%80/devices", ("uid", "no UTF-8")),
        ("/users/" + "x" * 16_385 + "/devices", ("uid", "16385 characters")),
        ("/users/u/devices/", ("device_id", "0 characters")),
        ("/users/u/devices/" + "%C3%A9" * 121, ("device_id", "242 bytes", "1 to 240 bytes")),
        ("/users/u/devices/a%00", ("device_id", "NUL")),
        ("/channels/one/c", ("channel_type", "a text", "0 to 255")),
        ("/channels/256/c", ("channel_type", "out of range")),
        ("/channels/-1/c", ("channel_type", "out of range")),
        ("/channels/2/", ("channel_id",)),
        ("/stats?a=1", ("a", "allowed: nothing")),
        ("/stats?%ff=1", ("query", "UTF-8")),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_bad_path_names_its_part(api: Api, path: str, words: tuple[str, ...]) -> None:
    refused(api.client.get(f"/admin/v1{path}", headers={"Authorization": f"Bearer {TOKEN}"}), *words)


def test_a_segment_more_is_not_an_id_with_a_slash(api: Api) -> None:
    assert api.call("GET", "/users/a/b/devices").status_code == 404


def test_without_a_raw_path_plain_ids_still_work(api: Api) -> None:
    bare = {"REQUEST_URI": "", "RAW_URI": ""}
    assert api.register("a b%", "d") == 201
    assert len(ok(api.call("GET", "/users/{}/devices", "a b%", environ_overrides=bare))["devices"]) == 1


def test_a_mount_point_and_the_absolute_form(api: Api) -> None:
    assert api.register("a/b", "d") == 201
    for raw, script in (
        ("/push/admin/v1/users/a%2Fb/devices", "/push"),
        ("http://bridge.example/admin/v1/users/a%2Fb/devices?", ""),
        ("/%61dmin/v1/users/a%2fb/devices", ""),
    ):
        environ = {"RAW_URI": raw, "SCRIPT_NAME": script}
        assert len(ok(api.call("GET", "/users/u/devices", environ_overrides=environ))["devices"]) == 1


def test_methods_that_are_not_there(api: Api) -> None:
    for method in ("OPTIONS", "POST", "TRACE"):
        assert api.call(method, "/stats").status_code == 405
    for path in ("/users/u/badge", "/users/u/mutes/2/c"):
        assert api.call("PUT", path, body={}).status_code == 404


def test_an_empty_token_is_no_token(api: Api) -> None:
    with pytest.raises(ValueError, match="token"):
        admin.blueprint(api.database, "", {}, None, lambda: 0, lambda: None, ttl=1)  # type: ignore[arg-type]

"""Who may post: the secret in its three places, and the address behind proxies that are trusted."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config import networks
from app.web.errors import ApiError
from app.web.webhook import client_address
from tests.web.bridge import MAX_BODY, Bridge

Bridged = Callable[..., Bridge]

SECRET = "s3cret"
ODD = "p@ss/w:rd +%2F?&=#汉\U0001f600"
"""Everything that has a meaning of its own in an address."""


def basic(text: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize(
    "url",
    [
        f"/webhook/{SECRET}?event=user.onlinestatus",
        f"/webhook?event=user.onlinestatus&token={SECRET}",
        f"/webhook?token={SECRET}&event=user.onlinestatus",
        f"/webhook?token={SECRET}?event=user.onlinestatus",
        f"/?token={SECRET}?event=user.onlinestatus",
        f"/webhook?x=1&token={SECRET}?event=user.onlinestatus",
        "/webhook?token=%733cret&event=user.onlinestatus",
        "/webhook/%733cret?event=user.onlinestatus",
    ],
)
def test_the_secret_in_the_address(bridged: Bridged, url: str) -> None:
    assert bridged(secret=SECRET.encode()).call(url) == 200


@pytest.mark.parametrize("credentials", [f":{SECRET}", f"anybody:{SECRET}", f"名:{SECRET}"])
def test_the_secret_as_a_password(bridged: Bridged, credentials: str) -> None:
    bridge = bridged(secret=SECRET.encode())
    assert bridge.call("/webhook?event=user.onlinestatus", headers=basic(credentials)) == 200


def test_a_secret_of_odd_characters(bridged: Bridged) -> None:
    bridge = bridged(secret=ODD.encode())
    quoted = quote(ODD, safe="")
    for url in (
        f"/webhook/{quoted}?event=user.onlinestatus",
        f"/webhook?event=user.onlinestatus&token={quoted}",
        f"/webhook?token={quoted}?event=user.onlinestatus",
    ):
        assert bridge.call(url) == 200
    assert bridge.call("/webhook?event=user.onlinestatus", headers=basic(f"u:{ODD}")) == 200


def test_the_event_behind_a_broken_query_is_the_servers(bridged: Bridged) -> None:
    bridge = bridged(secret=SECRET.encode())
    assert bridge.call(f"/webhook?token={SECRET}?event=user.onlinestatus", b'["u-0-1-1-1-1"]') == 200
    assert bridge.depth() == {"status": 1}


WRONG: list[tuple[str, dict[str, str]]] = [
    ("/webhook?event=user.onlinestatus", {}),
    ("/webhook/?event=user.onlinestatus", {}),
    ("/webhook/wrong?event=user.onlinestatus", {}),
    (f"/webhook/{SECRET}x?event=user.onlinestatus", {}),
    (f"/webhook/{SECRET}/?event=user.onlinestatus", {}),
    (f"/webhook/{SECRET.upper()}?event=user.onlinestatus", {}),
    ("/webhook/%FF%00?event=user.onlinestatus", {}),
    ("/webhook?event=user.onlinestatus&token=", {}),
    ("/webhook?event=user.onlinestatus&token=wrong", {}),
    ("/webhook?event=user.onlinestatus&token=%ED%A0%80", {}),
    (f"/webhook?token={SECRET}x?event=user.onlinestatus", {}),
    (f"/webhook?event=user.onlinestatus&secret={SECRET}", {}),
    ("/webhook?event=user.onlinestatus", basic(f"{SECRET}:wrong")),
    ("/webhook?event=user.onlinestatus", basic(SECRET)),
    ("/webhook?event=user.onlinestatus", {"Authorization": f"Basic {SECRET}"}),
    ("/webhook?event=user.onlinestatus", {"Authorization": "Basic"}),
    ("/webhook?event=user.onlinestatus", {"Authorization": f"Bearer {SECRET}"}),
    ("/webhook?event=user.onlinestatus", {"Authorization": "Basic \xff"}),
]


@pytest.mark.parametrize(("url", "headers"), WRONG, ids=range(len(WRONG)))
def test_a_missing_or_wrong_secret(bridged: Bridged, url: str, headers: dict[str, str]) -> None:
    bridge = bridged(secret=SECRET.encode())
    answer = bridge.client.post(url, data=b'["u-0-1-1-1-1"]', headers=headers)
    assert answer.status_code in ((404,) if "/webhook/?" in url else (401,))
    assert answer.content_type == "application/json"
    assert SECRET not in answer.text
    assert bridge.depth() == {}


def test_401_says_how_to_do_better(bridged: Bridged) -> None:
    answer = bridged(secret=SECRET.encode()).client.post("/webhook?event=user.onlinestatus")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="webhook"'
    assert answer.get_json()["error"]["code"] == "unauthorized"


def test_without_a_secret_any_is_taken(bridged: Bridged) -> None:
    bridge = bridged()
    assert bridge.call("/webhook/whatever?event=user.onlinestatus") == 200
    assert bridge.call("/webhook?event=user.onlinestatus", headers=basic("a:b")) == 200


def test_origin_comes_before_everything_else(bridged: Bridged) -> None:
    bridge = bridged(secret=SECRET.encode())
    assert bridge.call("/webhook", b"x") == 401
    assert bridge.call("/webhook?event=msg.offline", b"x" * (MAX_BODY + 1)) == 401
    assert bridged(allow_from=()).call("/webhook?event=nonsense", b"x") == 403


PUBLIC, OTHER_PUBLIC, PROXY, OUTER = "203.0.113.9", "198.51.100.7", "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize(
    ("peer", "allow_from", "status"),
    [
        ("127.0.0.1", ("loopback",), 200),
        ("127.9.9.9", ("loopback",), 200),
        ("::1", ("loopback",), 200),
        ("::ffff:127.0.0.1", ("loopback",), 200),
        ("10.1.2.3", ("private",), 200),
        ("172.31.0.1", ("private",), 200),
        ("172.32.0.1", ("private",), 403),
        ("fd00::1", ("private",), 200),
        ("fe80::1%eth0", ("private",), 200),
        ("::ffff:192.168.1.1", ("private",), 200),
        (PUBLIC, ("loopback", "private"), 403),
        (f"::ffff:{PUBLIC}", ("loopback", "private"), 403),
        (PUBLIC, ("any",), 200),
        ("2001:db8::1", ("any",), 200),
        (PUBLIC, (PUBLIC,), 200),
        (PUBLIC, ("203.0.113.0/24",), 200),
        (PUBLIC, (), 403),
        ("", (), 200),
    ],
)
def test_the_address_decides_with_or_without_a_secret(
    bridged: Bridged, peer: str, allow_from: tuple[str, ...], status: int
) -> None:
    for secret in (b"", SECRET.encode()):
        bridge = bridged(secret=secret, allow_from=allow_from)
        url = f"/webhook/{SECRET}?event=user.onlinestatus"
        assert bridge.call(url, environ_overrides={"REMOTE_ADDR": peer}) == status


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (PUBLIC, [], PUBLIC),
        (PUBLIC, ["127.0.0.1"], PUBLIC),
        (PUBLIC, ["10.0.0.1, 127.0.0.1"], PUBLIC),
        (PROXY, [], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, [" , "], PROXY),
        (PROXY, [PUBLIC], PUBLIC),
        (PROXY, [f"127.0.0.1, {PUBLIC}"], PUBLIC),
        (PROXY, ["127.0.0.1", PUBLIC], PUBLIC),
        (PROXY, [f"{PUBLIC}, 127.0.0.1", OTHER_PUBLIC], OTHER_PUBLIC),
        (PROXY, [f"127.0.0.1,{PUBLIC},{OUTER}"], PUBLIC),
        (PROXY, [f"127.0.0.1, {PUBLIC}", OUTER], PUBLIC),
        (PROXY, [OUTER], OUTER),
        (PROXY, [f"garbage, {PUBLIC}"], PUBLIC),
        (PROXY, [f"{PUBLIC}:4711"], PUBLIC),
        (PROXY, ["[2001:db8::9]:4711"], "2001:db8::9"),
        (PROXY, ["[2001:db8::9]"], "2001:db8::9"),
        (PROXY, ["2001:db8::9"], "2001:db8::9"),
        (PROXY, [f"::ffff:{PUBLIC}"], PUBLIC),
        (f"::ffff:{PROXY}", [PUBLIC], PUBLIC),
        ("", [], "None"),
        ("", [PUBLIC], PUBLIC),
        ("", [f"{PUBLIC}, {PROXY}"], PUBLIC),
    ],
)
def test_the_last_hop_that_no_trusted_proxy_vouches_for(peer: str, forwarded: list[str], client: str) -> None:
    assert str(client_address(peer, forwarded, networks((PROXY, OUTER), "", ""))) == client


@pytest.mark.parametrize(
    "hop", ["unknown", "_hidden", "garbage", "127.0.0.1 x", "127.0.0.1:", "1.2.3", "127.0.0.1:5:6", "[::1", "localhost"]
)
def test_a_trusted_proxy_that_names_no_address(bridged: Bridged, hop: str) -> None:
    """Else whoever is behind it would pass for the proxy itself, which is often in a range that is allowed."""
    bridge = bridged(allow_from=("any",), trusted_proxies=(PROXY,))
    headers = {"X-Forwarded-For": hop}
    url = "/webhook?event=user.onlinestatus"
    assert bridge.call(url, headers=headers, environ_overrides={"REMOTE_ADDR": PROXY}) == 403
    assert bridge.call(url, headers=headers, environ_overrides={"REMOTE_ADDR": PUBLIC}) == 200


@given(st.lists(st.text(max_size=30) | st.sampled_from(["127.0.0.1", "10.9.9.9", PROXY]), max_size=5))
def test_nobody_can_write_himself_another_address(claims: list[str]) -> None:
    """Whatever a caller sends, the proxy puts the true address behind it."""
    trusted = networks((PROXY,), "", "")
    for forwarded in ([", ".join([*claims, PUBLIC])], [*claims, PUBLIC]):
        assert str(client_address(PROXY, forwarded, trusted)) == PUBLIC
        assert str(client_address(PUBLIC, forwarded, trusted)) == PUBLIC


@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_whatever_a_proxy_sends_is_an_address_or_refused(header: str) -> None:
    with suppress(ApiError):
        assert client_address(PROXY, [header], networks((PROXY,), "", "")) is not None


def test_the_whole_way_through_a_proxy(bridged: Bridged) -> None:
    def status(forwarded: str, **origin: Any) -> int:
        bridge = bridged(allow_from=("192.0.2.0/24",), **origin)
        return bridge.call(
            "/webhook?event=user.onlinestatus",
            headers={"X-Forwarded-For": forwarded},
            environ_overrides={"REMOTE_ADDR": PROXY},
        )

    assert status("192.0.2.1", trusted_proxies=("private",)) == 200
    assert status(f"192.0.2.1, {PUBLIC}", trusted_proxies=("private",)) == 403
    assert status("192.0.2.1") == 403

from __future__ import annotations

import pytest

from app.relay import Target, is_name, label, target


def made(url: str, secret: bytes = b"", events: frozenset[str] | None = None) -> Target:
    return target(url, secret, events, max_age=1, max_backlog=9, timeout=1)


@pytest.mark.parametrize(
    ("url", "event", "origin", "path"),
    [
        ("http://h", "msg.offline", "http://h", "/?event=msg.offline"),
        ("http://h:81/", "msg.offline", "http://h:81", "/?event=msg.offline"),
        ("https://h/a/b/", "a b&c=d/é", "https://h", "/a/b/?event=a%20b%26c%3Dd%2F%C3%A9"),
        ("http://[::1]:81/w?token=x", "e", "http://[::1]:81", "/w?token=x&event=e"),
        ("http://h?token=x", "e", "http://h", "/?token=x&event=e"),
    ],
)
def test_the_request(url: str, event: str, origin: str, path: str) -> None:
    found = made(url)
    request = found.request(event, b"body")
    assert found.origin == origin
    assert (request.method, request.path, request.body) == ("POST", path, b"body")
    assert request.headers == {"content-type": "application/json"}


def test_the_name_tells_targets_apart_and_fits_its_column() -> None:
    names = {made(url).name for url in ("http://h", "http://h/", "https://h/", "http://h:80/a", "http://h:80/b")}
    assert len(names) == 5
    assert {name.partition("/")[0] for name in names} == {"h:80", "h:443"}
    assert made("http://h/").name == made("http://h/", b"another secret", frozenset({"e"})).name
    assert len("relay/" + made(f"http://{'h' * 253}:65535/").name) <= 96


def test_which_events_a_target_wants() -> None:
    some = made("http://h", events=frozenset({"msg.notify", "x"}))
    assert [event for event in ("msg.offline", "msg.notify", "x", "y") if some.wants(event)] == ["msg.notify", "x"]
    every = made("http://h")
    assert all(every.wants(event) for event in ("msg.offline", "x", "x" * 128, "用户"))
    assert not any(every.wants(event) for event in ("", "x" * 129, "a\nb", "a\x00", "\ufffd"))
    assert not is_name("\x7f")


def test_made_up_events_make_no_series() -> None:
    assert [label(event) for event in ("msg.offline", "x")] == ["msg.offline", "other"]

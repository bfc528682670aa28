"""The stand-in that fails on purpose: how often, with what, and what it says of it afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import httpx
import pytest
from hyperframe.frame import GoAwayFrame, HeadersFrame

from app.demo.standin import StandinProcess
from app.demo.standin.faults import Faults, kinds
from tests.standin.frames import FrameClient
from tests.standin.kit import DEVICE, FCM_PATH, GRANT, PAYLOAD, apns_headers, assertion, tls

REQUESTS, HIT = 10, 3


def dealt(faults: Faults, count: int) -> list[str]:
    return [found[0] if (found := faults.next()) else "" for _ in range(count)]


def test_three_in_every_ten_are_hit() -> None:
    names = dealt(Faults("apns", seed=1), 1_000)
    assert [sum(map(bool, names[start : start + 10])) for start in range(0, 1_000, 10)] == [3] * 100
    assert len({tuple(map(bool, names[start : start + 10])) for start in range(0, 1_000, 10)}) > 20


@pytest.mark.parametrize("server", ["apns", "fcm"])
def test_every_kind_comes_up_once_a_round_and_a_broken_connection_least(server: str) -> None:
    often = {name: count for name, (count, _) in kinds(server).items()}
    hits = filter(None, dealt(Faults(server, seed=2), 1_000))
    assert Counter(islice(hits, sum(often.values()))) == Counter(often)
    assert {often[name] for name in ("dropped", "goaway-all", "goaway-some", "goaway-none")} == {1}


def test_a_seed_gives_the_same_faults_again() -> None:
    first, again, other = (dealt(Faults("fcm", seed), 200) for seed in (7, 7, 8))
    assert first == again != other


def test_only_some_kinds() -> None:
    assert set(dealt(Faults("apns", 1, ["hang", "429"]), 100)) == {"", "hang", "429"}
    with pytest.raises(ValueError, match="no such fault: explosion"):
        Faults("apns", 1, ["explosion"])


@pytest.fixture
def client(standin: StandinProcess) -> Iterator[httpx.Client]:
    with httpx.Client(http2=True, verify=tls(standin), timeout=1) as made:
        yield made


def push(standin: StandinProcess, client: httpx.Client) -> httpx.Response | None:
    """None where no whole answer came."""
    try:
        return client.post(f"{standin.apns}/3/device/{DEVICE}", headers=apns_headers(standin), content=PAYLOAD)
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("refused", None),
        ("reset-internal", None),
        ("reset-cancel", None),
        ("dropped", None),
        ("200-cut", None),
        ("503-cut", None),
        ("500", 500),
        ("500-bare", 500),
        ("503", 503),
        ("503-retry-after", 503),
        ("429", 429),
        ("200-bare", 200),
        ("slow", 200),
    ],
)
def test_what_the_client_gets(standin: StandinProcess, client: httpx.Client, kind: str, status: int | None) -> None:
    standin.faults("apns", seed=3, only=[kind])
    statuses = [found and found.status_code for found in (push(standin, client) for _ in range(REQUESTS))]
    calls = standin.requests(server="apns")
    assert Counter(call["fault"] for call in calls) == {"": REQUESTS - HIT, kind: HIT}
    assert [s for s, call in zip(statuses, calls, strict=True) if call["fault"]] == [status] * HIT
    assert [s for s, call in zip(statuses, calls, strict=True) if not call["fault"]] == [200] * (REQUESTS - HIT)


@pytest.mark.parametrize(("kind", "last", "answered"), [("all", 1, [200]), ("some", 0, []), ("none", 0, [])])
def test_goaway(standin: StandinProcess, kind: str, last: int, answered: list[int]) -> None:
    """A new connection for each request; of a single one the older half is none."""
    standin.faults("apns", seed=3, only=[f"goaway-{kind}"])
    for number in range(1, REQUESTS + 1):
        with FrameClient(standin.apns, tls(standin)) as client:
            client.send(1, f"/3/device/{DEVICE}", apns_headers(standin), PAYLOAD)
            (call,) = standin.wait(number)[-1:]
            if call["fault"]:
                client.to_end()
                (frame,) = client.of(GoAwayFrame)
                assert isinstance(frame, GoAwayFrame)
                assert (frame.last_stream_id, bool(frame.additional_data)) == (last, kind != "all")
                assert [client.status(found) for found in client.of(HeadersFrame)] == answered
    assert sum(bool(call["fault"]) for call in standin.requests()) == HIT


def test_nothing_at_all(standin: StandinProcess, client: httpx.Client) -> None:
    standin.faults("apns", seed=3, only=["hang"])
    client.timeout = 0.2  # type: ignore[assignment]
    answers = [push(standin, client) for _ in range(10)]
    assert Counter(answer is None for answer in answers) == {True: 3, False: 7}
    assert [call["answered"] for call in standin.requests() if call["fault"]] == [None] * 3


def test_each_vendor_has_its_own_words(standin: StandinProcess, client: httpx.Client) -> None:
    standin.faults("apns", seed=3, only=["429"])
    standin.faults("fcm", seed=3, only=["429"])
    form = {"grant_type": GRANT, "assertion": assertion(standin)}
    access = client.post(standin.token_uri, data=form).json()["access_token"]
    headers = {"authorization": f"Bearer {access}"}
    content = {"message": {"token": "phone"}}
    fcm = [client.post(standin.fcm + FCM_PATH, headers=headers, json=content) for _ in range(10)]
    apns = [push(standin, client) for _ in range(10)]
    (refused, *_) = [answer for answer in fcm if answer.status_code == 429]
    assert refused.json()["error"]["details"][0]["errorCode"] == "QUOTA_EXCEEDED"
    (refused, *_) = [answer for answer in apns if answer is not None and answer.status_code == 429]
    assert (refused.json(), refused.headers["retry-after"]) == ({"reason": "TooManyRequests"}, "1")


def test_a_script_goes_before_a_fault_and_a_reset_ends_them(standin: StandinProcess, client: httpx.Client) -> None:
    standin.faults("apns", seed=3, only=["500"])
    standin.script(DEVICE, [{"status": 404}] * 10)
    assert [a and a.status_code for a in (push(standin, client) for _ in range(10))] == [404] * 10
    assert {call["fault"] for call in standin.requests()} == {""}
    standin.reset()
    with httpx.Client(http2=True, verify=tls(standin)) as fresh:
        assert [a and a.status_code for a in (push(standin, fresh) for _ in range(10))] == [200] * 10
    with pytest.raises(ValueError, match="no such fault"):
        standin.faults("apns", seed=3, only=["explosion"])


@pytest.mark.parametrize("breaking", [{"action": "drop"}, {"action": "half"}])
def test_a_broken_connection_delivers_first_what_was_answered(
    standin: StandinProcess, breaking: dict[str, object]
) -> None:
    """So a test may hold every recorded 200 against a client that sends again."""
    other = "b2" * 32
    standin.script(other, [breaking])
    with FrameClient(standin.apns, tls(standin)) as client:
        for stream, device in ((1, DEVICE), (3, DEVICE), (5, other), (7, DEVICE)):
            client.send(stream, f"/3/device/{device}", apns_headers(standin), PAYLOAD)
        standin.wait(4)
        client.to_end()
        answered = {f.stream_id for f in client.of(HeadersFrame)}
        assert answered == {call["stream"] for call in standin.requests() if call["answered"]}
        assert {1, 3} <= answered
        assert 7 not in answered

"""APNs hangs: FCM does not notice, and APNs goes on by itself as soon as it answers. How fast is for `make bench`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until
from tests.e2e.tries import tries

PHONES = 50
PATIENCE = {"first_delay": "50ms", "max_delay": "400ms"}


def post(service: Service, messages: int) -> None:
    """Messages to one phone each, one with APNs and one with FCM by turns."""
    service.register_many(
        [
            {"uid": f"{provider}-{n}", "device_id": "phone", "provider": provider, "token": token}
            for n in range(PHONES)
            for provider, token in (("ios", apns_token(0x80_0000 + n)), ("android", f"fcm-beside-{n}"))
        ]
    )
    bodies = [offline([f"{('ios', 'android')[n % 2]}-{n // 2 % PHONES}"]) for n in range(messages)]
    assert service.webhooks("msg.offline", bodies) == [200] * messages


def outcomes(service: Service, provider: str) -> Counter[str]:
    return Counter(record["outcome"] for record in service.records() if record["provider"] == provider)


def check_both(service: Service, apns: StandinProcess, fcm: StandinProcess, messages: int) -> None:
    """Every push arrived: at FCM once, at APNs once and besides only as often as an attempt was given up before."""
    until(service.is_idle, "APNs has caught up", 90)
    assert outcomes(service, "ios") == {"sent": messages // 2}
    attempts = {record["message_id"]: record["attempts"] for record in service.records()}
    taken = taken_by(apns, "apns")
    assert len(taken) == messages // 2
    doubled = {message: times for message, times in taken.items() if times > attempts[message]}
    assert not doubled, f"taken more often than tried: {doubled}"
    assert Counter(taken_by(fcm, "fcm").values()) == {1: messages // 2}


def taken_by(standin: StandinProcess, server: str) -> Counter[str]:
    """How often each message was taken; it is for one phone."""
    return Counter(
        message
        for (_, message), calls in tries(standin).items()
        for call in calls
        if call["server"] == server and call["answered"] == 200
    )


@pytest.mark.soak
def test_fcm_goes_on_while_apns_never_answers(
    start: Callable[..., Service], standin: StandinProcess, soak: bool
) -> None:
    messages = 2_000 if soak else 400
    standin.script_all("apns", [{"action": "hang", "forever": True}])
    service = start(providers={"ios": {"timeout": "2s"}}, retry=PATIENCE)
    post(service, messages)

    until(lambda: outcomes(service, "android") == {"sent": messages // 2}, "all of FCM's pushes are sent", 60)
    hung = standin.requests(server="apns")
    assert hung
    assert {request["answered"] for request in hung} == {None}
    assert "sent" not in outcomes(service, "ios")

    standin.script_all("apns", [])
    check_both(service, standin, standin, messages)


@pytest.mark.soak
def test_fcm_goes_on_while_apns_accepts_no_connection(
    start: Callable[..., Service], standin: StandinProcess, tmp_path: Path, soak: bool
) -> None:
    messages = 2_000 if soak else 400
    with StandinProcess(tmp_path / "apns") as apns:
        block = {"endpoint": apns.apns, "ca_file": apns.ca_file, "key_file": apns.key_file, "timeout": "2s"}
        service = start(providers={"ios": block}, retry=PATIENCE)
        apns.freeze()
        post(service, messages)

        until(lambda: outcomes(service, "android") == {"sent": messages // 2}, "all of FCM's pushes are sent", 60)
        assert "sent" not in outcomes(service, "ios")

        apns.thaw()
        check_both(service, apns, standin, messages)

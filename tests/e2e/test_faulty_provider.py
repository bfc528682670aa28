"""Vendors that fail three requests in ten, in every way there is: all arrives, nothing that was taken is sent again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from app.demo.standin import StandinProcess
from app.demo.standin.faults import kinds
from tests.e2e.service import Service, apns_token, offline, until
from tests.e2e.tries import check_delivered_once, tries

RECIPIENTS = 10
"""Of one message; each has an iPhone and an Android phone."""

RESTING = {"500", "500-bare", "503", "503-retry-after", "503-cut"}
"""What APNs is left alone for five seconds after; the long form only has time for that."""

LOST = {"reset-internal", "reset-cancel", "dropped", "hang", "429", "goaway-some", "goaway-none", *RESTING}
"""What FCM asks for ten seconds of rest after. What is left never gets as far as the queue of retries."""


def send(service: Service, messages: int) -> set[tuple[str, str]]:
    """Post messages to people of their own each; the pushes that must come of them."""
    people = range(messages * RECIPIENTS)
    devices = [
        {"uid": f"hit-{n}", "device_id": provider, "provider": provider, "token": token}
        for n in people
        for provider, token in (("ios", apns_token(0x70_0000 + n)), ("android", f"fcm-hit-{n}"))
    ]
    service.register_many(devices)
    bodies = [
        offline([f"hit-{n}" for n in people[start : start + RECIPIENTS]], channel_type=2, channel_id=f"g{start}")
        for start in range(0, len(people), RECIPIENTS)
    ]
    assert service.webhooks("msg.offline", bodies) == [200] * messages
    message_of = {uid: str(body["message_id"]) for body in bodies for uid in body["to_uids"]}
    return {(device["token"], message_of[device["uid"]]) for device in devices}


@pytest.mark.soak
def test_all_arrive_and_none_is_sent_again_after_a_200(
    start: Callable[..., Service], standin: StandinProcess, soak: bool
) -> None:
    # Only what is never answered may outlast the time-out, however busy the machine is: an answer that comes in the
    # moment in which it is given up counts as known here.
    messages, timeout, patience = (250, "20s", 700.0) if soak else (10, "3s", 60.0)
    wanted = {"apns": kinds("apns").keys(), "fcm": kinds("fcm").keys()}
    if not soak:
        wanted = {"apns": wanted["apns"] - RESTING, "fcm": wanted["fcm"] - LOST}
    standin.settings("apns", first_streams=100)  # so that none waits for its time-out behind a first that hangs
    service = start(
        providers={"ios": {"timeout": timeout}, "android": {"timeout": timeout}},
        retry={"first_delay": "50ms", "max_delay": "400ms"},
    )
    standin.faults("apns", seed=41, only=sorted(wanted["apns"]))
    standin.faults("fcm", seed=42, only=sorted(wanted["fcm"]))

    pushes = send(service, messages)
    until(service.is_idle, "nothing waits any more", patience)

    assert Counter(record["outcome"] for record in service.records()) == {"sent": len(pushes)}
    found = tries(standin)
    assert found.keys() == pushes
    check_delivered_once(found)
    hits = {(r["server"], r["fault"]) for requests in found.values() for r in requests if r["fault"]}
    assert hits == {(server, kind) for server, some in wanted.items() for kind in some}, "a fault hit nothing"

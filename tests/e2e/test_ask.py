"""With `wukongim.api_url` set, the server itself settles who is online."""

from __future__ import annotations

from collections.abc import Callable

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token
from tests.e2e.wukongim import Server


def test_one_question_settles_everybody_who_looks_online(
    start: Callable[..., Service], standin: StandinProcess, wukongim: Server
) -> None:
    service = start(wukongim={"api_url": wukongim.url}, presence={"hold": "60s"})
    for number, uid in enumerate(("stays", "left", "offline")):
        service.register(uid, apns_token(0x70 + number))
    service.statuses("stays-0-1-1-1-1", "left-0-1-2-1-1")
    wukongim.online = {"stays": [0]}
    message_id = service.offline(["stays", "left", "offline"], channel_type=2, channel_id="g")

    service.outcome(message_id, "left", "sent")
    assert service.outcome(message_id, "stays", "suppressed")["reason"] == "online"
    service.outcome(message_id, "offline", "sent")
    assert wukongim.asked == [["left", "stays"]]
    assert not service.online("left"), "a record found wrong is corrected"
    assert service.online("stays")
    again = service.offline(["left"])
    service.outcome(again, "left", "sent")
    assert len(wukongim.asked) == 1


def test_an_old_record_is_believed_when_the_server_says_so(
    start: Callable[..., Service], standin: StandinProcess, wukongim: Server
) -> None:
    service = start(wukongim={"api_url": wukongim.url}, presence={"hold": "60s", "ttl": "1ms"})
    service.register("old", apns_token(0x74))
    service.statuses("old-1-1-1-1-1")
    wukongim.online = {"old": [1]}
    message_id = service.offline(["old"])
    service.outcome(message_id, "old", "suppressed")
    assert wukongim.asked == [["old"]]


def test_without_an_answer_the_rule_without_it_applies(
    start: Callable[..., Service], standin: StandinProcess, wukongim: Server
) -> None:
    service = start(wukongim={"api_url": wukongim.url}, presence={"hold": "400ms"})
    service.register("stays", apns_token(0x75))
    service.register("quick", apns_token(0x76))
    service.statuses("stays-0-1-1-1-1")
    wukongim.answer.clear()
    held = service.offline(["stays"])
    service.outcome(held, "stays", "held")
    message_id = service.offline(["quick"])
    service.outcome(message_id, "quick", "sent")
    assert service.outcome(held, "stays", "suppressed")["reason"] == "online"
    assert service.pushes(standin, held) == []

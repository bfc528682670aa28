"""What the dispatcher learns of devices: which are dead, which live, which nobody holds any more."""

from __future__ import annotations

import asyncio

import pytest

from app import plan
from app.clock import now_ms
from app.dispatch import settling
from app.dispatch.work import Batch, Restore
from app.model import SUCCESS_KEPT_EVERY, Device
from app.store import deliveries, devices, keys
from app.store.rows import Drop, Touch
from providers.kit.base import Delivered, Rejected, TokenInvalid
from providers.kit.base import Outcome as Answer
from tests.dispatch.conftest import Bridge, Stub
from tests.dispatch.test_work import RULES

DAY = SUCCESS_KEPT_EVERY


def register(bridge: Bridge, device_id: str, token: str, at: int | None = None, provider: str = "good") -> None:
    """A device of bob's."""
    with bridge.database.write() as connection:
        devices.put(connection, Device("bob", device_id, provider, token, now_ms() if at is None else at))


def owned(bridge: Bridge) -> dict[str, Device]:
    """Bob's devices by their ids, in quarantine or not."""
    with bridge.database.read() as connection:
        found = devices.of_users(connection, ["bob"], removed=True).get("bob", [])
        return {device.device_id: device for device in found}


def settled(bridge: Bridge, message_id: int) -> dict[str, tuple[str, str]]:
    """Outcome and reason by device id, of what has its last word."""
    with bridge.database.read() as connection:
        rows = deliveries.trace(connection, message_id=message_id)
        return {row.device_id: (row.outcome.value, row.reason) for row in rows if row.due_at is None}


def push(bridge: Bridge, provider: Stub, outcomes: int = 1) -> dict[str, tuple[str, str]]:
    """Send bob a message; what became of it, once there are so many outcomes."""
    message = bridge.message("bob")
    asyncio.run(bridge.run(provider, until=lambda: len(settled(bridge, message)) == outcomes))
    return settled(bridge, message)


def test_a_dead_token_puts_its_device_in_quarantine(bridge: Bridge) -> None:
    register(bridge, "phone", "dead")
    before = now_ms()
    refusing = Stub("good", lambda _: TokenInvalid("Unregistered"))
    assert push(bridge, refusing) == {"phone": ("invalid_token", "Unregistered")}
    phone = owned(bridge)["phone"]
    assert phone.removed_reason == "Unregistered"
    assert phone.removed_at is not None
    assert before <= phone.removed_at <= now_ms()
    assert push(bridge, refusing) == {"": ("skipped", "no_device")}
    assert refusing.sent == ["dead"]


@pytest.mark.parametrize("since", [None, 2**50], ids=["undated", "dated"])
def test_a_new_token_outlives_the_refusal_of_the_old_one(bridge: Bridge, since: int | None) -> None:
    """The app registers its next token while a push to the former one is under way."""
    register(bridge, "phone", "old", at=1)

    def answer(token: str) -> Answer:
        if token == "new":
            return Delivered("id")
        register(bridge, "phone", "new")
        return TokenInvalid("Unregistered", since)

    provider = Stub("good", answer)
    assert push(bridge, provider) == {"phone": ("sent", "")}
    assert provider.sent == ["old", "new"], "the message that the old one was refused for is sent to the new one"
    assert owned(bridge)["phone"].removed_at is None


def test_devices_that_a_wrong_setting_made_look_dead_come_back(bridge: Bridge) -> None:
    with bridge.database.write() as connection:
        for n in range(60):
            devices.put(connection, Device(f"u{n}", "phone", "good", f"token-{n}", 1))
    wrong = False

    def answer(token: str) -> Answer:
        return TokenInvalid("BadDeviceToken", suspect=True) if wrong else Delivered("id")

    async def scenario() -> None:
        nonlocal wrong
        async with bridge.running(Stub("good", answer)) as wait:
            for n in range(15):
                bridge.message(f"u{n}")
            await wait(lambda: list(bridge.outcomes().values()).count("sent") == 15)
            wrong = True
            for n in range(60):
                bridge.message(f"u{n}")
            await wait(lambda: bridge.dispatcher._shared.senders["good"].pause is not None)
            await wait(lambda: bridge.devices() == 60)

    asyncio.run(scenario())
    outcomes = list(bridge.outcomes().values())
    assert outcomes.count("invalid_token") <= 20
    assert outcomes.count("queued") + outcomes.count("retrying") == 60 - outcomes.count("invalid_token")


def test_devices_that_swap_their_tokens_outlive_the_refusal_of_the_former_ones(bridge: Bridge) -> None:
    register(bridge, "phone", "a", at=1)
    register(bridge, "pad", "b", at=1)
    swapped = asyncio.Event()

    async def refuse(_: str) -> Answer:
        if len(provider.sent) == 2:
            register(bridge, "phone", "b")
            register(bridge, "pad", "a")
            swapped.set()
        await swapped.wait()
        return TokenInvalid("Unregistered", 2**50) if len(provider.sent) <= 2 else Delivered("id")

    provider = Stub("good", refuse)
    assert push(bridge, provider, 2) == {"phone": ("sent", ""), "pad": ("sent", "")}
    assert sorted(provider.sent) == ["a", "a", "b", "b"]
    assert all(device.removed_at is None for device in owned(bridge).values())


def test_a_success_is_noted_once_a_day(bridge: Bridge) -> None:
    """Neither where the last one is younger, nor where the device has just registered."""
    now = now_ms()
    register(bridge, "old", "old", at=1)
    register(bridge, "refused", "refused", at=1)
    register(bridge, "new", "new", at=now - DAY + 60_000)
    register(bridge, "seen", "seen", at=1)
    with bridge.database.write() as connection:
        devices.touch(connection, [Touch("bob", "seen", "good", "seen", now - DAY + 60_000)])
    provider = Stub("good", lambda token: Rejected("no") if token == "refused" else Delivered("id"))
    push(bridge, provider, 4)
    first = owned(bridge)
    assert first["old"].succeeded_at >= now
    assert [first[name].succeeded_at for name in ("refused", "new", "seen")] == [0, 0, now - DAY + 60_000]
    push(bridge, provider, 4)
    assert owned(bridge) == first


def test_a_stale_device_is_skipped_and_named(bridge: Bridge) -> None:
    register(bridge, "old", "old", at=1)
    register(bridge, "older", "older", at=1)
    policy = plan.Policy(stale_after=30 * DAY)
    provider = Stub("good")
    message = bridge.message("bob")
    asyncio.run(bridge.run(provider, policy=policy, until=lambda: len(settled(bridge, message)) == 2))
    assert settled(bridge, message) == dict.fromkeys(("old", "older"), ("skipped", "stale"))
    assert provider.sent == []

    register(bridge, "old", "old")
    again = bridge.message("bob")
    asyncio.run(bridge.run(provider, policy=policy, until=lambda: len(settled(bridge, again)) == 2))
    assert settled(bridge, again) == {"old": ("sent", ""), "older": ("skipped", "stale")}
    assert provider.sent == ["old"]


def test_a_stale_device_of_a_user_who_looks_online(bridge: Bridge) -> None:
    register(bridge, "old", "old", at=1)
    register(bridge, "new", "new")
    bridge.statuses("bob-0-1-1-1-1")
    message = bridge.message("bob")
    policy = plan.Policy(stale_after=30 * DAY, hold=60_000)
    provider = Stub("good")
    asyncio.run(bridge.run(provider, policy=policy, until=lambda: "old" in settled(bridge, message)))
    bridge.statuses("bob-0-0-1-0-0")
    asyncio.run(bridge.run(provider, policy=policy, until=lambda: len(settled(bridge, message)) == 2))
    assert settled(bridge, message) == {"old": ("skipped", "stale"), "new": ("sent", "")}


def test_all_that_a_wrong_setting_took_comes_back(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "RESTORED_TOGETHER", 2)
    now = now_ms()
    reasons = ["BadDeviceToken", "DeviceTokenNotForTopic"]
    for number in range(7):
        register(bridge, f"phone {number}", f"token {number}", at=1)
    drops = [Drop("bob", f"phone {n}", "good", f"token {n}", 2, reasons[n % 2]) for n in range(6)]
    settling.settle(bridge.database, Batch(drops=drops), "me", RULES, now_ms)
    steps = [settling.restore(bridge.database, Restore("good", reasons, now - 1_000)) for _ in range(4)]
    assert steps == [True, True, True, False]
    assert bridge.devices() == 7


def test_what_was_long_enough_in_quarantine_is_forgotten(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dispatch.tidy.ROWS", 2)
    now = now_ms()
    for number in range(7):
        register(bridge, f"phone {number}", f"token {number}", at=1)
    with bridge.database.write() as connection:
        for number in range(6):
            removed = now if number == 5 else now - 8 * DAY
            devices.drop(connection, [Drop("bob", f"phone {number}", "good", f"token {number}", 2, "gone")], removed)
        keys.remember(connection, ["u" * 300])

    def names() -> dict[str, str]:
        with bridge.database.read() as connection:
            return keys.restore(connection, [keys.key("u" * 300)])

    asyncio.run(bridge.run(Stub("good"), quarantine=7 * DAY, until=lambda: not names()))
    assert owned(bridge).keys() == {"phone 5", "phone 6"}

"""Whatever phones and vendors do, in whatever order: who registered last, and was not refused since, is reached."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Connection, delete

from app.model import Device
from app.settle import DropToken, Limits, decide
from app.store import devices, schema
from app.store.rows import Drop
from providers.kit.base import TokenInvalid
from tests.store.kit import NOW

LONG = "u" * 300
PHONES = [("u1", "phone"), ("u1", "pad"), (LONG, "phone")]
TOKENS = [("ios", "a"), ("ios", "A"), ("android", "a")]
REASONS = ["Unregistered", "BadDeviceToken"]

REACHED, REMOVED, FORGOTTEN = "reached", "removed", "forgotten"


@dataclass(eq=False)
class Registration:
    """One call of an app, and what has become of it."""

    uid: str
    device_id: str
    provider: str
    token: str
    at: int
    state: str = REACHED
    removed_at: int = 0
    reason: str = ""

    def ends(self, other: Registration) -> bool:
        """A phone has one token, and a token one phone: the last call is the one that counts."""
        return (self.uid, self.device_id) == (other.uid, other.device_id) or (self.provider, self.token) == (
            other.provider,
            other.token,
        )

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.uid, self.device_id, self.provider, self.token


def place(device: Device) -> tuple[str, str, str, str]:
    return device.uid, device.device_id, device.provider, device.token


class Phones(RuleBasedStateMachine):
    """`pushes`: those under way, each to the registration that it was planned for."""

    def __init__(self, db: Connection) -> None:
        super().__init__()
        self.db = db
        self.db.execute(delete(schema.devices))
        self.now = NOW
        self.calls: list[Registration] = []
        self.pushes: list[tuple[Device, Registration]] = []

    def those(self, state: str) -> list[Registration]:
        return [call for call in self.calls if call.state == state]

    @rule(phone=st.sampled_from(PHONES), of=st.sampled_from(TOKENS))
    def register(self, phone: tuple[str, str], of: tuple[str, str]) -> None:
        (uid, device_id), (provider, token) = phone, of
        self.now += 1
        call = Registration(uid, device_id, provider, token, self.now)
        known = any((c.uid, c.device_id) == (uid, device_id) for c in self.those(REACHED))
        for other in self.calls:
            if call.ends(other):
                other.state = FORGOTTEN
        self.calls.append(call)
        assert devices.put(self.db, Device(uid, device_id, provider, token, self.now)) is not known

    @precondition(lambda self: self.those(REACHED))
    @rule(data=st.data())
    def push(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self.those(REACHED)))
        found = devices.to_push(self.db, [call.uid])[call.uid]
        (device,) = (each for each in found if each.device_id == call.device_id)
        self.pushes.append((device, call))

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), dated=st.booleans(), reason=st.sampled_from(REASONS))
    def refuse(self, data: st.DataObject, dated: bool, reason: str) -> None:
        device, call = data.draw(st.sampled_from(self.pushes))
        self.now += 1
        since = data.draw(st.integers(call.at - 1, self.now)) if dated else None
        said = decide(
            TokenInvalid(reason, since),
            attempts=1,
            first_at=self.now,
            registered_at=device.registered_at,
            limits=Limits(),
            now=self.now,
            jitter=0,
        )
        hit = [c for c in self.those(REACHED) if c.place == call.place and (c.at < since if since else c is call)]
        if isinstance(said, DropToken):
            drop = Drop(device.uid, device.device_id, device.provider, device.token, said.before, said.reason)
            assert devices.drop(self.db, [drop], self.now) == len(hit)
        for each in hit:
            each.state, each.removed_at, each.reason = REMOVED, self.now, reason

    @precondition(lambda self: self.those(REACHED))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.push(data)
        self.refuse(data, False, "Unregistered")

    @rule(
        data=st.data(),
        provider=st.sampled_from(["ios", "android"]),
        reasons=st.none() | st.sets(st.sampled_from(REASONS)),
    )
    def restore(self, data: st.DataObject, provider: str, reasons: set[str] | None) -> None:
        since = data.draw(st.integers(NOW, self.now + 1))
        back = [
            call
            for call in self.those(REMOVED)
            if call.provider == provider and call.removed_at >= since and (reasons is None or call.reason in reasons)
        ]
        assert devices.restore(self.db, provider, since, reasons) == len(back)
        for call in back:
            call.state = REACHED

    @rule(phone=st.sampled_from(PHONES))
    def remove(self, phone: tuple[str, str]) -> None:
        uid, device_id = phone
        known = [c for c in self.calls if c.state != FORGOTTEN and (c.uid, c.device_id) == (uid, device_id)]
        assert devices.remove(self.db, uid, device_id) is bool(known)
        for call in known:
            call.state = FORGOTTEN

    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        before = data.draw(st.integers(NOW, self.now + 1))
        old = [call for call in self.those(REMOVED) if call.removed_at < before]
        assert devices.forget_removed(self.db, before, 100) == len(old)
        for call in old:
            call.state = FORGOTTEN

    @invariant()
    def who_is_reached(self) -> None:
        reached = sorted(call.place for call in self.those(REACHED))
        found = devices.to_push(self.db, ["u1", LONG])
        assert sorted(place(each) for of in found.values() for each in of) == reached
        assert sum(devices.count(self.db).values()) == len(reached)

    @invariant()
    def who_is_in_quarantine(self) -> None:
        removed = sorted((*call.place, call.removed_at, call.reason) for call in self.those(REMOVED))
        listed = devices.all_of(self.db, None, 100, removed=True)
        found = [(*place(each), each.removed_at, each.removed_reason) for each in listed if each.removed_at]
        assert sorted(found) == removed


@pytest.mark.soak
def test_who_registered_last_and_was_not_refused_since_is_reached(db: Connection, soak: bool) -> None:
    how = settings(max_examples=500 if soak else 15, stateful_step_count=40, database=None)
    run_state_machine_as_test(lambda: Phones(db), settings=how)

"""What the store takes and gives: rows as frozen values. Times are UNIX milliseconds."""

from __future__ import annotations

from msgspec import Struct

from app.model import Device, Outcome


class Event(Struct, frozen=True):
    """One accepted webhook call as it lies in the inbox."""

    id: int
    kind: str
    body: bytes
    received_at: int
    attempts: int


class Delivery(Struct, frozen=True, kw_only=True):
    """The outcome of one message for one device; `device_id` is empty where it concerns the user as a whole.

    id: 0 for one that is not stored yet.
    due_at: when it is to be taken up again; None where the outcome is the last word.
    event_id: where the content is, as long as it may be needed.
    lane: a model.Lane. channel: Message.channel_key. expires_at: when it is worth nothing any more; None = never.
    reason, provider_id: cut to what the columns hold.
    """

    message_id: int
    uid: str
    device_id: str
    provider: str
    outcome: Outcome
    reason: str = ""
    provider_id: str = ""
    source: str = "msg.offline"
    attempts: int = 0
    first_at: int
    at: int
    latency_ms: int = 0
    due_at: int | None = None
    event_id: int | None = None
    lane: int = 0
    channel: int = 0
    expires_at: int | None = None
    id: int = 0


class Drop(Struct, frozen=True):
    """A device whose token is dead, if it still has this provider's token and was registered before `before`.

    reason: the vendor's word; cut to what the column holds. message_id, event_id: of the push that it was said to.
    """

    uid: str
    device_id: str
    provider: str
    token: str
    before: int
    reason: str
    message_id: int = 0
    event_id: int = 0

    def hits(self, device: Device) -> bool:
        """Whether this device, as it is now, is the one whose token is dead."""
        return device.token == self.token and device.registered_at < self.before


class Touch(Struct, frozen=True):
    """A device that took a push at `at`, if it still has this provider's token."""

    uid: str
    device_id: str
    provider: str
    token: str
    at: int


class Health(Struct, frozen=True):
    """What one dispatcher said of itself last; `health` is its JSON."""

    owner: str
    beat_at: int
    health: str

"""For each recipient of a message: send to which devices, hold until when, or skip and why."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from app.model import (
    PERSON,
    SUCCESS_KEPT_EVERY,
    Connections,
    Content,
    Decision,
    Device,
    Hold,
    Lane,
    Message,
    Outcome,
    Push,
    Skip,
)
from app.presence import Looks, looks


class Policy(Struct, frozen=True, kw_only=True):
    """The settings that decide. Times in milliseconds.

    ask_after: how long after the webhook WuKongIM is asked about a user who looks online; None = it is not asked.
    skip_types: payload types that never ring.
    stale_after: how long a device may be silent before it is skipped; None = for ever.
    """

    suppress: str = "any"
    hold: int = 3_000
    ttl: int = 3_600_000
    ask_after: int | None = None
    skip_types: frozenset[int] = frozenset()
    stale_after: int | None = None


def message_skip(message: Message, payload_type: int, policy: Policy, now: int) -> Skip | None:
    """Why nobody at all gets this message; None where recipients are to be looked at one by one."""
    if message.sync_once:
        return Skip(Outcome.SKIPPED, "sync_once")
    if payload_type in policy.skip_types:
        return Skip(Outcome.SKIPPED, "type")
    if is_expired(message, now):
        return Skip(Outcome.SKIPPED, "expired")
    return None


def is_expired(message: Message, now: int) -> bool:
    expires_at = message.expires_at
    return expires_at is not None and now >= expires_at * 1000


def lane(message: Message, content: Content, uid: str, bulk: bool) -> Lane:
    """Whether a recipient's pushes go ahead. bulk: the message is for a great many people."""
    if uid in content.mentions:
        return Lane.NOW
    if bulk:
        return Lane.BULK
    return Lane.NOW if message.channel_type == PERSON or content.mentions_all else Lane.NORMAL


def is_stale(device: Device, policy: Policy, at: int) -> bool:
    """Whether a device had neither registered nor taken a push for so long that by `at` nobody is taken to have it."""
    # A success that is not written down is no older than this.
    return policy.stale_after is not None and at - device.seen_at > policy.stale_after + SUCCESS_KEPT_EVERY


def recipient(
    message: Message,
    uid: str,
    devices: Sequence[Device],
    connections: Connections,
    *,
    policy: Policy,
    received_at: int,
    now: int,
) -> list[Decision]:
    """What happens to one recipient: one decision for the user, or one push for each device.

    Each stale device is skipped beside that, and a user who has no other gets nothing else.
    """
    if uid == message.from_uid:
        return [Skip(Outcome.SKIPPED, "sender")]
    if not devices:
        return [Skip(Outcome.SKIPPED, "no_device")]
    stale: list[Decision] = []
    if policy.stale_after is not None:
        stale = [Skip(Outcome.SKIPPED, "stale", device) for device in devices if is_stale(device, policy, received_at)]
        if len(stale) == len(devices):
            return stale
    look = looks(connections, policy.suppress, policy.ttl, now)
    if look is Looks.OFFLINE or (look is Looks.DOUBTFUL and policy.ask_after is None):
        return [*stale, *_pushes(devices, policy, received_at)]
    return [*stale, Hold(first_look(received_at, policy))]


def _pushes(devices: Sequence[Device], policy: Policy, received_at: int) -> list[Push]:
    return [Push(device) for device in devices if not is_stale(device, policy, received_at)]


def first_look(received_at: int, policy: Policy) -> int:
    """When it is decided again about a held recipient; an answer to a question before then may be too old."""
    return received_at + (policy.hold if policy.ask_after is None else min(policy.ask_after, policy.hold))


def held(
    devices: Sequence[Device], connections: Connections, *, policy: Policy, asked: bool, received_at: int, now: int
) -> list[Decision]:
    """What happens to a held recipient whose time has come. Stale devices were skipped when it was held.

    asked: the server has answered, and `connections` says what it said.
    """
    if not devices:
        return [Skip(Outcome.SKIPPED, "no_device")]
    look = looks(connections, policy.suppress, policy.ttl, now)
    if look is Looks.OFFLINE or (look is Looks.DOUBTFUL and not asked):
        return [*_pushes(devices, policy, received_at)] or [Skip(Outcome.SKIPPED, "stale")]
    if asked or now >= received_at + policy.hold:
        return [Skip(Outcome.SUPPRESSED, "online")]
    first = first_look(received_at, policy)
    return [Hold(first if now < first else received_at + policy.hold)]

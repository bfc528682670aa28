"""Writes what was decided: outcomes, devices, events and held rows, each batch in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from app import plan, presence
from app.dispatch.steps import Rules
from app.dispatch.taking import offline, unread
from app.dispatch.work import Batch, Parsed, Restore
from app.model import Device, Outcome
from app.store import deliveries, devices, inbox
from app.store import presence as presence_store
from app.store.dialect import Database, Transaction
from app.store.rows import Delivery, Drop

SETTLED_TOGETHER = 100
"""Rows that are written in one transaction: a webhook or a message that is urgent waits no longer than one takes."""
RESTORED_TOGETHER = 250
"""Devices that come back in one transaction."""
EVENT_TRIES = 5
"""Times that work on one event may fail before it is set aside."""


def settle(db: Database, batch: Batch, owner: str, rules: Rules, now: Callable[[], int]) -> int:
    """Write a batch in one transaction; how many of its changed rows somebody else held by then.

    Devices that come back may be a great many: `restore` has them.
    """
    with db.write() as connection:
        deliveries.insert_new(connection, recheck_held(connection, batch.new, rules.policy, now()))
        changed = recheck_held(connection, batch.changed, rules.policy, now())
        lost = len(changed) - deliveries.update_held_by(connection, changed, owner)
        devices.drop(connection, batch.drops, now())
        devices.touch(connection, batch.touches)
        if batch.finished:
            lost += len(batch.finished) - inbox.planned(connection, batch.finished, owner)
        for progress in batch.given_back:
            parsed, message_id = progress.parsed, progress.parsed.message.message_id
            letter = unread(parsed.event_id, parsed.source, parsed.received_at, now(), message_id)
            give_back(connection, letter, progress.attempts + 1, owner, now())
        inbox.sweep(connection, batch.loose)
    return lost


def restore(db: Database, one: Restore) -> bool:
    """Take some of these devices back, in one transaction; whether there may be more.

    After what their batch drops: some of that comes back, too.
    """
    with db.write() as connection:
        some = devices.restore(connection, one.provider, one.since, one.reasons, RESTORED_TOGETHER)
    return some == RESTORED_TOGETHER


def once_more(db: Database, batch: Batch, now: int) -> None:
    """Have what was refused for a token that is not the phone's any more go to the one that is."""
    if renewed := _renewed(db, batch.drops):
        batch.new = _again(batch.new, renewed, now)
        batch.changed = _again(batch.changed, renewed, now)


_Identity = tuple[int, str, str]


def _renewed(db: Database, drops: Sequence[Drop]) -> dict[_Identity, int]:
    """Pushes whose phone registered again while they were under way, and where their content is."""
    with db.read() as connection:
        known = devices.of_users(connection, list({drop.uid for drop in drops}))
    now = {(uid, device.device_id, device.provider): device for uid, owned in known.items() for device in owned}
    return {
        (drop.message_id, drop.uid, drop.device_id): drop.event_id
        for drop in drops
        if (device := now.get((drop.uid, drop.device_id, drop.provider))) and not drop.hits(device)
    }


def _again(rows: Sequence[Delivery], renewed: Mapping[_Identity, int], now: int) -> list[Delivery]:
    again = {"outcome": Outcome.RETRYING, "reason": "registered again meanwhile", "due_at": now}
    keys = [(row.message_id, row.uid, row.device_id) for row in rows]
    return [
        replace(row, **again, event_id=renewed[key]) if row.outcome is Outcome.INVALID_TOKEN and key in renewed else row
        for row, key in zip(rows, keys, strict=True)
    ]


def give_back(connection: Transaction, letter: Delivery, attempts: int, owner: str, now: int) -> None:
    """Have a call worked on again later, or set it aside with its dead letter where that has failed too often."""
    failed = attempts >= EVENT_TRIES
    inbox.give_back(connection, letter.event_id or 0, owner, now + 1000 * attempts, attempts, failed)
    if failed:
        deliveries.insert_new(connection, [letter])


def recheck_held(
    connection: Transaction, rows: Sequence[Delivery], policy: plan.Policy, now: int
) -> Sequence[Delivery]:
    """Whoever went offline between the plan and this transaction is due at once; later ones find the row."""
    held = {row.uid for row in rows if row.outcome is Outcome.HELD}
    if not held:
        return rows
    known = presence_store.of_users(connection, list(held))
    left = set(offline({uid: known.get(uid, {}) for uid in held}, policy, now))
    return [replace(row, due_at=now) if row.uid in left and row.outcome is Outcome.HELD else row for row in rows]


def hold_on(db: Database, rows: Sequence[Delivery], owner: str, rules: Rules, now: int) -> None:
    """Let go of held rows, each until its `due_at`; whoever has gone offline meanwhile is due at once."""
    with db.write() as connection:
        deliveries.update_held_by(connection, recheck_held(connection, rows, rules.policy, now), owner)


def believe(db: Database, answer: Mapping[str, frozenset[int]], asked_at: int, now: int) -> None:
    """Correct what is known of users by what the server said when asked, and take up what is held for them.

    What came from the server after the question is newer than the answer, and stays.
    """
    with db.write() as connection:
        before = presence_store.of_users(connection, list(answer))
        after = {
            uid: presence.correct(before.get(uid, {}), flags, now)
            for uid, flags in answer.items()
            if all(known.seen <= asked_at for known in before.get(uid, {}).values())
        }
        presence_store.put(connection, after)
        deliveries.release_held(connection, list(answer), now)


def release(
    db: Database, free: Sequence[tuple[Delivery, Parsed, list[Device]]], owner: str, lease: int, now: int
) -> list[Delivery]:
    """Give each device of a released user a row of its own, held by `owner` and about to be sent."""
    rows: list[Delivery] = []
    with db.write() as connection:
        for held, parsed, owned in free:
            pushes = [
                Delivery(
                    message_id=held.message_id,
                    uid=held.uid,
                    device_id=device.device_id,
                    provider=device.provider,
                    outcome=Outcome.QUEUED,
                    source=held.source,
                    first_at=held.first_at,
                    at=now,
                    due_at=now + lease,
                    event_id=parsed.event_id,
                    lane=parsed.lane(held.uid),
                    channel=parsed.channel,
                    expires_at=parsed.expires_at,
                )
                for device in owned
            ]
            rows += deliveries.release_to_devices(connection, held, pushes, owner) or []
    return rows

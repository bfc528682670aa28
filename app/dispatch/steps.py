"""The steps of the dispatcher for one batch: take, look up, plan, render, settle. What waits is in `loop`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from app import events, plan, presence, render
from app.dispatch.work import FAULT, Batch, Job, Known, Parsed, Progress
from app.intake import STATUS_LANE
from app.model import Connections, Decision, Device, Hold, Lane, Outcome, Push, Settings, Skip
from app.store import deliveries, devices, inbox, people
from app.store import presence as presence_store
from app.store.dialect import Database, Transaction, Unavailable
from app.store.rows import Delivery, Drop, Event
from providers.kit.base import Notice, Provider

log = structlog.get_logger()

SETTLED_TOGETHER = 1_000
"""New rows that are written in one transaction."""
EVENT_TRIES = 5
"""Times that planning one event may fail before it is set aside."""
STATUS_CALLS = 200
"""Calls of `user.onlinestatus` that are applied in one transaction."""


class Rules(Struct, frozen=True):
    """How this bridge is set to decide and to speak."""

    policy: plan.Policy
    style: render.Style


class Take(Struct, frozen=True):
    """What one claim brought. `more`: statuses are left, so nothing was claimed that must be planned after them."""

    claimed: list[Event]
    more: bool = False
    went_offline: int = 0
    bad: int = 0


def take(db: Database, lane: str, limit: int, weight: int, owner: str, lease: int, now: int, rules: Rules) -> Take:
    """Apply the statuses that came, then claim messages: a message is planned on what was said before it."""
    with db.read() as connection:
        if not inbox.has_work(connection, (STATUS_LANE, lane), now):
            return Take([])
    try:
        return _take(db, lane, limit, weight, owner, lease, now, rules)
    except Unavailable:
        raise
    except Exception:
        # Whatever a status call raises costs that call alone.
        log.exception("statuses not applied", action="status")
        return _take_one_by_one(db, owner, now, rules)


def _take_one_by_one(db: Database, owner: str, now: int, rules: Rules) -> Take:
    """Apply each status call by itself, and set aside what cannot be applied."""
    with db.read() as connection:
        calls = inbox.waiting(connection, STATUS_LANE, STATUS_CALLS)
    released = bad = 0
    for call in calls:
        try:
            with db.write() as connection:
                counts = _apply(connection, [call], rules.policy, now)
            released, bad = released + counts[0], bad + counts[1]
        except Unavailable:
            raise
        except Exception as error:
            log.error("status call set aside", action="status", event_id=call.id, error=type(error).__name__)
            with db.write() as connection:
                inbox.set_aside(connection, call.id)
                deliveries.insert_new(connection, [unread(call.id, "status", call.received_at, now)])
    return Take([], True, released, bad)


def unread(event_id: int, source: str, received_at: int, now: int, message_id: int | None = None) -> Delivery:
    """The dead letter of a call that cannot be planned; its own number stands in where its message cannot be read."""
    return Delivery(
        message_id=-event_id if message_id is None else message_id,
        uid="",
        device_id="",
        provider="",
        outcome=Outcome.DEAD,
        reason=FAULT,
        source=source,
        first_at=received_at,
        at=now,
        latency_ms=max(0, now - received_at),
        event_id=event_id,
    )


def _take(db: Database, lane: str, limit: int, weight: int, owner: str, lease: int, now: int, rules: Rules) -> Take:
    with db.write() as connection:
        waiting = inbox.waiting(connection, STATUS_LANE, STATUS_CALLS)
        released, bad = _apply(connection, waiting, rules.policy, now)
        if len(waiting) == STATUS_CALLS:
            return Take([], True, released, bad)
        claimed = inbox.claim(connection, lane, limit, weight, owner, now, lease, any_channel())
    return Take(claimed, False, released, bad)


class TakeHeld(Struct, frozen=True):
    """What one claim of held rows brought. `more`: statuses are left that must be applied before any is decided."""

    claimed: list[Delivery]
    more: bool = False
    bad: int = 0


def take_held(db: Database, lane: int, limit: int, owner: str, lease: int, now: int, rules: Rules) -> TakeHeld:
    """Apply the statuses that came, then claim held rows that are due: an "offline" may be among them.

    `take` may be late, since a poke was lost or a large message is being planned.
    """
    with db.read() as connection:
        due = deliveries.next_due(connection, [""], owner, [lane])
        if due is None or due > now:
            return TakeHeld([])
    with db.write() as connection:
        waiting = inbox.waiting(connection, STATUS_LANE, STATUS_CALLS)
        _, bad = _apply(connection, waiting, rules.policy, now)
        if len(waiting) == STATUS_CALLS:
            return TakeHeld([], True, bad)
        claimed = deliveries.claim_due(connection, "", lane, limit, owner, now, lease, any_channel())
    return TakeHeld(claimed, False, bad)


def any_channel() -> int:
    """Where the turns begin when more waits than is claimed."""
    return random.randrange(-(2**63), 2**63)


def _apply(connection: Transaction, calls: Sequence[Event], policy: plan.Policy, now: int) -> tuple[int, int]:
    """Apply statuses in their order, free what is held for users who left: how many rows, how many bad elements."""
    if not calls:
        return 0, 0
    parsed = []
    bad = 0
    for call in calls:
        statuses, passed_over = events.statuses(call.body)
        parsed += [(call.received_at, status) for status in statuses]
        bad += passed_over
    uids = list({status.uid for _, status in parsed})
    before = presence_store.of_users(connection, uids)
    after: dict[str, Connections] = {uid: before.get(uid, {}) for uid in uids}
    for received_at, status in parsed:
        after[status.uid] = presence.apply(after[status.uid], status, received_at)
    presence_store.put(connection, {uid: known for uid, known in after.items() if known != before.get(uid)})
    left = [uid for uid, known in after.items() if presence.looks(known, policy.suppress, policy.ttl, now) is _OFFLINE]
    released = deliveries.release_held(connection, left, now)
    inbox.remove(connection, [call.id for call in calls])
    return released, bad


_OFFLINE = presence.Looks.OFFLINE


def look_up(db: Database, batch: Sequence[tuple[Parsed, Sequence[str]]], decided: bool) -> Known:
    """What is known of these messages and recipients, in a few statements. `decided`: also what was settled before."""
    uids = list(dict.fromkeys(uid for _, some in batch for uid in some))
    messages = [parsed.message for parsed, _ in batch]
    threads = {(message.channel_type, message.channel_id) for message in messages}
    with db.read() as connection:
        return Known(
            devices=devices.to_push(connection, uids),
            settings=people.settings(connection, list({*uids, *(message.from_uid for message in messages)})),
            presence=presence_store.of_users(connection, uids),
            channels=people.channel_names(connection, list(threads)),
            decided=deliveries.known(connection, [m.message_id for m in messages], uids) if decided else set(),
        )


class Renderer:
    """Renders each message once for each provider, locale and wish, however many devices share them."""

    def __init__(self, rules: Rules, providers: Mapping[str, Provider]) -> None:
        self.providers = providers
        self._style = rules.style
        self._made: dict[tuple[Any, ...], tuple[Notice, Any] | None] = {}

    def prepared(self, parsed: Parsed, device: Device, known: Known) -> tuple[Notice, Any] | None:
        """What is sent of this message; None where this provider cannot make it, which is a fault of ours."""
        settings = known.settings.get(device.uid, _NOBODY)
        locale = device.locale or settings.locale
        key = (parsed.event_id, device.provider, locale, settings.show_content)
        if key not in self._made:
            try:
                notice = self._notice(parsed, known, locale, settings.show_content)
                self._made[key] = (notice, self.providers[device.provider].prepare(notice))
            except Exception:
                # It must cost neither the other providers' pushes of this message nor any other message.
                log.exception("rendering failed", action="render", provider=device.provider, event_id=parsed.event_id)
                self._made[key] = None
        return self._made[key]

    def _notice(self, parsed: Parsed, known: Known, locale: str, show_content: bool | None) -> Notice:
        notice = render.notice(
            parsed.message,
            parsed.content,
            known.names(parsed.message),
            locale=locale,
            show_content=show_content,
            style=self._style,
        )
        if parsed.words is None:
            return notice
        return render.reworded(notice, *parsed.words)


_NOBODY = Settings()


def plan_new(
    batch: Sequence[tuple[Progress, Sequence[str]]],
    known: Known,
    rules: Rules,
    renderer: Renderer,
    now: int,
) -> tuple[list[Job], list[Delivery], int]:
    """Decide for recipients of a webhook: the pushes, the outcomes of the rest, and how many were repeats."""
    jobs: list[Job] = []
    rows: list[Delivery] = []
    repeats = 0
    for progress, uids in batch:
        parsed = progress.parsed
        for_all = (
            plan.message_skip(parsed.message, parsed.content.type, rules.policy, now) if not parsed.words else None
        )
        for uid in uids:
            message_id = parsed.message.message_id
            if (message_id, uid, "") in known.decided:
                repeats += 1
                continue
            for decision in [for_all] if for_all else _decide(parsed, uid, known, rules, now):
                if isinstance(decision, Push):
                    if (message_id, uid, decision.device.device_id) in known.decided:
                        repeats += 1
                    elif decision.device.provider not in renderer.providers:
                        rows.append(_device_row(parsed, decision.device, Outcome.REJECTED, "provider_unknown", now))
                    elif made := renderer.prepared(parsed, decision.device, known):
                        lane = parsed.lane(uid)
                        jobs.append(Job(parsed, decision.device, *made, progress, 0, 0, parsed.received_at, lane))
                    else:
                        rows.append(_device_row(parsed, decision.device, Outcome.DEAD, UNRENDERED, now))
                elif isinstance(decision, Skip) and decision.device is not None:
                    if (message_id, uid, decision.device.device_id) in known.decided:
                        repeats += 1
                    else:
                        rows.append(_device_row(parsed, decision.device, decision.outcome, decision.reason, now))
                else:
                    rows.append(_user_row(parsed, uid, decision, now))
    return jobs, rows, repeats


def _decide(parsed: Parsed, uid: str, known: Known, rules: Rules, now: int) -> list[Decision]:
    owned = known.devices.get(uid, [])
    if parsed.words is not None:
        return [Push(device) for device in owned] or [Skip(Outcome.SKIPPED, "no_device")]
    return plan.recipient(
        parsed.message,
        uid,
        owned,
        known.presence.get(uid, {}),
        policy=rules.policy,
        received_at=parsed.received_at,
        now=now,
    )


def _user_row(parsed: Parsed, uid: str, decision: Hold | Skip, now: int, row_id: int = 0) -> Delivery:
    held = isinstance(decision, Hold)
    return Delivery(
        id=row_id,
        message_id=parsed.message.message_id,
        uid=uid,
        device_id="",
        provider="",
        outcome=Outcome.HELD if isinstance(decision, Hold) else decision.outcome,
        reason="online" if isinstance(decision, Hold) else decision.reason,
        source=parsed.source,
        first_at=parsed.received_at,
        at=now,
        latency_ms=0 if held else max(0, now - parsed.received_at),
        due_at=decision.until if isinstance(decision, Hold) else None,
        event_id=parsed.event_id if held else None,
    )


UNRENDERED = "rendering failed"


def _device_row(parsed: Parsed, device: Device, outcome: Outcome, reason: str, now: int) -> Delivery:
    """A device that nothing can be sent to."""
    return Delivery(
        message_id=parsed.message.message_id,
        uid=device.uid,
        device_id=device.device_id,
        provider=device.provider,
        outcome=outcome,
        reason=reason,
        source=parsed.source,
        first_at=parsed.received_at,
        at=now,
        latency_ms=max(0, now - parsed.received_at),
        event_id=parsed.event_id if outcome is Outcome.DEAD else None,
    )


def plan_held(
    rows: Iterable[tuple[Delivery, Parsed]], known: Known, asked: frozenset[int], rules: Rules, now: int
) -> tuple[list[tuple[Delivery, Parsed, list[Device]]], list[Delivery]]:
    """Decide for held users whose time has come: whose devices get the push now, and the outcomes of the rest.

    asked: the ids of the rows whose user the server has answered about since.
    """
    free: list[tuple[Delivery, Parsed, list[Device]]] = []
    settled: list[Delivery] = []
    for row, parsed in rows:
        if plan.is_expired(parsed.message, now):
            settled.append(_user_row(parsed, row.uid, Skip(Outcome.SKIPPED, "expired"), now, row.id))
            continue
        decisions = plan.held(
            known.devices.get(row.uid, []),
            known.presence.get(row.uid, {}),
            policy=rules.policy,
            asked=row.id in asked,
            received_at=parsed.received_at,
            now=now,
        )
        pushes = [decision.device for decision in decisions if isinstance(decision, Push)]
        if pushes:
            free.append((row, parsed, pushes))
        else:
            settled += [
                _user_row(parsed, row.uid, decision, now, row.id)
                for decision in decisions
                if not isinstance(decision, Push)
            ]
    return free, settled


def hold_on(db: Database, rows: Sequence[Delivery], owner: str, rules: Rules, now: int) -> None:
    """Let go of held rows, each until its `due_at`; whoever has gone offline meanwhile is due at once."""
    with db.write() as connection:
        deliveries.update_held_by(connection, _recheck_held(connection, rows, rules.policy, now), owner)


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


def plan_due(
    rows: Iterable[tuple[Delivery, Parsed]], known: Known, renderer: Renderer, max_age: int, now: int
) -> tuple[list[Job], list[Delivery]]:
    """Take pushes up again that waited: those to send, and the outcomes of those that are past sending."""
    jobs: list[Job] = []
    settled: list[Delivery] = []
    for row, parsed in rows:
        device = next((d for d in known.devices.get(row.uid, []) if d.device_id == row.device_id), None)
        if device is None or device.provider != row.provider:
            settled.append(ended(row, Outcome.SKIPPED, "no_device", now))
        elif row.provider not in renderer.providers:
            settled.append(ended(row, Outcome.REJECTED, "provider_unknown", now))
        elif plan.is_expired(parsed.message, now):
            settled.append(ended(row, Outcome.SKIPPED, "expired", now))
        elif now > row.first_at + max_age:
            settled.append(ended(row, Outcome.DEAD, row.reason or "too old", now, parsed.event_id))
        elif made := renderer.prepared(parsed, device, known):
            jobs.append(Job(parsed, device, *made, None, row.id, row.attempts, row.first_at, Lane(row.lane)))
        else:
            settled.append(ended(row, Outcome.DEAD, UNRENDERED, now, parsed.event_id))
    return jobs, settled


def ended(row: Delivery, outcome: Outcome, reason: str, now: int, event_id: int | None = None) -> Delivery:
    """A stored row with its last word. `event_id`: kept for dead letters only."""
    return Delivery(
        id=row.id,
        message_id=row.message_id,
        uid=row.uid,
        device_id=row.device_id,
        provider=row.provider,
        outcome=outcome,
        reason=reason,
        source=row.source,
        attempts=row.attempts,
        first_at=row.first_at,
        at=now,
        latency_ms=max(0, now - row.first_at),
        event_id=event_id,
    )


def settle(db: Database, batch: Batch, owner: str, rules: Rules, now: Callable[[], int]) -> int:
    """Write a batch; how many of its changed rows somebody else held by then.

    New rows go ahead in transactions of their own where there are many: a webhook waits no longer than one of these.
    What ends an event comes with the last of its rows, or after them.
    """
    with db.read() as connection:
        renewed = _renewed(connection, batch.drops)
    rows = _once_more(batch.new, renewed, now())
    while len(rows) > SETTLED_TOGETHER:
        with db.write() as connection:
            some = _recheck_held(connection, rows[:SETTLED_TOGETHER], rules.policy, now())
            deliveries.insert_new(connection, some)
        rows = rows[SETTLED_TOGETHER:]
    with db.write() as connection:
        deliveries.insert_new(connection, _recheck_held(connection, rows, rules.policy, now()))
        again = _once_more(batch.changed, renewed, now())
        changed = _recheck_held(connection, again, rules.policy, now())
        lost = len(changed) - deliveries.update_held_by(connection, changed, owner)
        devices.drop(connection, batch.drops, now())
        devices.touch(connection, batch.touches)
        for restore in batch.restores:
            devices.restore(connection, restore.provider, restore.since, [restore.reason])
        if batch.finished:
            lost += len(batch.finished) - inbox.planned(connection, batch.finished, owner)
        for progress in batch.given_back:
            give_back(connection, progress, owner, now())
        inbox.sweep(connection, batch.loose)
    return lost


_Identity = tuple[int, str, str]


def _renewed(connection: Transaction, drops: Sequence[Drop]) -> dict[_Identity, int]:
    """Pushes whose phone registered again while they were under way, and where their content is."""
    if not drops:
        return {}
    known = devices.of_users(connection, list({drop.uid for drop in drops}))
    now = {(uid, device.device_id, device.provider): device for uid, owned in known.items() for device in owned}
    return {
        (drop.message_id, drop.uid, drop.device_id): drop.event_id
        for drop in drops
        if (device := now.get((drop.uid, drop.device_id, drop.provider))) and not drop.hits(device)
    }


def _once_more(rows: Sequence[Delivery], renewed: Mapping[_Identity, int], now: int) -> Sequence[Delivery]:
    """What was refused for a token that is not the phone's any more goes to the one that is."""
    if not renewed:
        return rows
    again = {"outcome": Outcome.RETRYING, "reason": "registered again meanwhile", "due_at": now}
    keys = [(row.message_id, row.uid, row.device_id) for row in rows]
    return [
        replace(row, **again, event_id=renewed[key]) if row.outcome is Outcome.INVALID_TOKEN and key in renewed else row
        for row, key in zip(rows, keys, strict=True)
    ]


def give_back(connection: Transaction, progress: Progress, owner: str, now: int) -> None:
    """Have an event planned again later, or set it aside as a dead letter where that failed too often."""
    parsed, attempts = progress.parsed, progress.attempts + 1
    failed = attempts >= EVENT_TRIES
    inbox.give_back(connection, parsed.event_id, owner, now + 1000 * attempts, attempts, failed)
    if failed:
        letter = unread(parsed.event_id, parsed.source, parsed.received_at, now, parsed.message.message_id)
        deliveries.insert_new(connection, [letter])


def _recheck_held(
    connection: Transaction, rows: Sequence[Delivery], policy: plan.Policy, now: int
) -> Sequence[Delivery]:
    """Whoever went offline between the plan and this transaction is due at once; later ones find the row."""
    held = {row.uid for row in rows if row.outcome is Outcome.HELD}
    if not held:
        return rows
    known = presence_store.of_users(connection, list(held))
    left = {uid for uid in held if presence.looks(known.get(uid, {}), policy.suppress, policy.ttl, now) is _OFFLINE}
    return [replace(row, due_at=now) if row.uid in left and row.outcome is Outcome.HELD else row for row in rows]

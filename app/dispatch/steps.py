"""What is decided for a batch of messages: look up, plan, render. It begins in `taking` and ends in `settling`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import structlog
from msgspec import Struct

from app import plan, render
from app.dispatch.work import Job, Known, Parsed, Progress
from app.model import Decision, Device, Hold, Lane, Outcome, Push, Settings, Skip
from app.store import deliveries, devices, people
from app.store import presence as presence_store
from app.store.dialect import Database, Transaction
from app.store.rows import Delivery
from providers.kit.base import Notice, Provider

log = structlog.get_logger()

FEW = 50
"""Recipients up to which all outcomes of a message are read to learn of a few."""


class Rules(Struct, frozen=True):
    """How this bridge is set to decide and to speak."""

    policy: plan.Policy
    style: render.Style


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
            decided=_decided(connection, batch) if decided else set(),
        )


def _decided(connection: Transaction, batch: Sequence[tuple[Parsed, Sequence[str]]]) -> set[tuple[int, str, str]]:
    few = [(parsed.message.message_id, uids) for parsed, uids in batch if len(parsed.recipients.uids) <= FEW]
    found = deliveries.known(
        connection, [message_id for message_id, _ in few], [uid for _, some in few for uid in some]
    )
    for parsed, uids in batch:
        if len(parsed.recipients.uids) > FEW:
            found |= deliveries.known_among(connection, parsed.message.message_id, uids)
    return found


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

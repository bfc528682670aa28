"""Registered phones, and those whose token died: they are kept in quarantine for a time, where nothing is sent to them.

A row in quarantine has `removed_at`. It still owns its place and its token, so that a registration of either takes its
place, and taking it back out never meets another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import ColumnElement, Connection, Delete, Select, Update, and_, bindparam, delete, func, select, update

from app.model import Device
from app.store import dialect, keys
from app.store.rows import Drop, Touch
from app.store.schema import devices

_VALUES = (
    "provider",
    "token",
    "token_digest",
    "voip_token",
    "locale",
    "device_flag",
    "app_version",
    "registered_at",
    "updated_at",
    "removed_at",
    "removed_reason",
)
_HERE = devices.c.removed_at.is_(None)
_REASON = 255
"""Characters of a vendor's word that are kept."""


def _digest(token: str) -> bytes:
    return blake2b(token.encode(), digest_size=16).digest()


def put(connection: Connection, device: Device) -> bool:
    """Register a device, or renew it; True where it is new to this user, or comes back from quarantine.

    The same token under another user, or another device id, moves here: a handed-on phone must not get its old
    owner's messages.
    """
    uid, digest = keys.key(device.uid), _digest(device.token)
    mine = and_(devices.c.uid == uid, devices.c.device_id == device.device_id)
    same_token = and_(devices.c.provider == device.provider, devices.c.token_digest == digest)
    connection.execute(delete(devices).where(same_token, ~mine))
    known = connection.execute(select(devices.c.uid).where(mine, _HERE)).first() is not None
    keys.remember(connection, (device.uid,))
    row = {
        "uid": uid,
        "device_id": device.device_id,
        "provider": device.provider,
        "token": device.token,
        "token_digest": digest,
        "voip_token": device.voip_token,
        "locale": device.locale,
        "device_flag": device.device_flag,
        "app_version": device.app_version,
        "registered_at": device.registered_at,
        "updated_at": device.updated_at,
        "removed_at": None,
        "removed_reason": "",
    }
    connection.execute(dialect.upsert(connection, devices, ("uid", "device_id"), _VALUES), [row])
    return not known


def of_users(connection: Connection, uids: Sequence[str], *, removed: bool = False) -> dict[str, list[Device]]:
    """The devices of each user who has any, in a stable order. `removed`: with those in quarantine."""
    by_key = {keys.key(uid): uid for uid in uids}
    found: dict[str, list[Device]] = {}
    for some in dialect.chunks(list(by_key)):
        query = _listed(removed).where(devices.c.uid.in_(some)).order_by(devices.c.uid, devices.c.device_id)
        for row in connection.execute(query).all():
            uid = by_key[row[0]]
            found.setdefault(uid, []).append(_device(uid, row))
    return found


def to_push(connection: Connection, uids: Sequence[str]) -> dict[str, list[Device]]:
    """The devices of each user who has any, with those fields only that a push needs."""
    by_key = {keys.key(uid): uid for uid in uids}
    found: dict[str, list[Device]] = {}
    for some in dialect.chunks(list(by_key)):
        for row in connection.execute(_TO_PUSH.where(devices.c.uid.in_(some))).all():
            key, device_id, provider, token, registered_at, locale, succeeded_at = row
            uid = by_key[key]
            device = Device(uid, device_id, provider, token, registered_at, locale=locale, succeeded_at=succeeded_at)
            if uid in found:
                found[uid].append(device)
            else:
                found[uid] = [device]
    return found


_TO_PUSH = select(
    devices.c.uid,
    devices.c.device_id,
    devices.c.provider,
    devices.c.token,
    devices.c.registered_at,
    devices.c.locale,
    devices.c.succeeded_at,
).where(_HERE)
_SELECT = select(
    devices.c.uid,
    devices.c.device_id,
    devices.c.provider,
    devices.c.token,
    devices.c.registered_at,
    devices.c.updated_at,
    devices.c.locale,
    devices.c.device_flag,
    devices.c.voip_token,
    devices.c.app_version,
    devices.c.succeeded_at,
    devices.c.removed_at,
    devices.c.removed_reason,
)
"""In the order of model.Device."""


def _listed(removed: bool) -> Select[Any]:
    return _SELECT if removed else _SELECT.where(_HERE)


def _device(uid: str, row: Any) -> Device:
    return Device(uid, *row[1:])


def remove(connection: Connection, uid: str, device_id: str) -> bool:
    """Forget a device, in quarantine or not; False where there was none."""
    mine = and_(devices.c.uid == keys.key(uid), devices.c.device_id == device_id)
    return connection.execute(delete(devices).where(mine)).rowcount > 0


_NAMED = and_(devices.c.uid == bindparam("its_uid"), devices.c.device_id == bindparam("its_device_id"))
_SAME_TOKEN = and_(
    _NAMED, devices.c.provider == bindparam("its_provider"), devices.c.token_digest == bindparam("its_token")
)


def drop(connection: Connection, drops: Iterable[Drop], now: int) -> int:
    """Put devices in quarantine whose token a vendor called dead, unless it was registered again since; how many."""
    values = [{**_token(item), "before": item.before, "reason": item.reason[:_REASON]} for item in drops]
    if not values:
        return 0
    dead = and_(_SAME_TOKEN, devices.c.registered_at < bindparam("before"), _HERE)
    statement = update(devices).where(dead).values(removed_at=now, removed_reason=bindparam("reason"))
    return connection.execute(statement, values).rowcount


def _token(item: Drop | Touch) -> dict[str, Any]:
    """The values of _SAME_TOKEN."""
    return {
        "its_uid": keys.key(item.uid),
        "its_device_id": item.device_id,
        "its_provider": item.provider,
        "its_token": _digest(item.token),
    }


def touch(connection: Connection, touches: Iterable[Touch]) -> None:
    """Note of devices that they took a push, unless they have another token by now."""
    values = [{**_token(item), "at": item.at} for item in touches]
    if values:
        connection.execute(update(devices).where(_SAME_TOKEN).values(succeeded_at=bindparam("at")), values)


def restore(
    connection: Connection,
    provider: str,
    since: int,
    reasons: Collection[str] | None = None,
    limit: int = 1_000,
) -> int:
    """Take up to `limit` devices of a provider back that came into quarantine since then; how many.

    For tokens that looked dead because a setting was wrong. reasons: only what came there for one of these, of which
    the column holds the first 255 characters. Where `limit` of them came back there may be more.
    """
    # The provider as a term and not as a column, or SQLite walks all of its devices for the few that are gone.
    gone = and_(devices.c.provider.concat("") == provider, devices.c.removed_at >= since)
    if reasons is not None:
        gone = and_(gone, devices.c.removed_reason.in_({reason[:_REASON] for reason in reasons}))
    statement = update(devices).where(_NAMED, devices.c.removed_at >= since)
    return _change(connection, gone, limit, statement.values(removed_at=None, removed_reason=""))


def forget_removed(connection: Connection, before: int, limit: int) -> int:
    """Forget up to `limit` devices that are in quarantine since before then; how many."""
    old = devices.c.removed_at < before
    return _change(connection, old, limit, delete(devices).where(_NAMED, old))


def _change(connection: Connection, which: ColumnElement[bool], limit: int, statement: Update | Delete) -> int:
    """Run a statement for each of up to `limit` devices; how many were changed."""
    found = connection.execute(select(devices.c.uid, devices.c.device_id).where(which).limit(limit)).all()
    values = [{"its_uid": key, "its_device_id": device_id} for key, device_id in found]
    return connection.execute(statement, values).rowcount if values else 0


def count(connection: Connection) -> dict[str, int]:
    """How many devices each provider has, without those in quarantine."""
    # All but those in quarantine, each counted in an index: to see which are here, every row would have to be read.
    query = select(devices.c.provider, func.count()).group_by(devices.c.provider)
    all_of_them = {row[0]: row[1] for row in connection.execute(query)}
    # As a term, or SQLite takes the index by provider for it.
    provider = devices.c.provider.concat("")
    gone = select(provider, func.count()).where(devices.c.removed_at.is_not(None)).group_by(provider)
    removed = {row[0]: row[1] for row in connection.execute(gone)}
    return {name: here for name, count in all_of_them.items() if (here := count - removed.get(name, 0)) > 0}


def all_of(connection: Connection, provider: str | None, limit: int, *, removed: bool = False) -> list[Device]:
    """Devices of every user, for listing. `removed`: with those in quarantine."""
    query = _listed(removed)
    if provider:
        query = query.where(devices.c.provider == provider)
    rows: Sequence[Any] = connection.execute(query.order_by(devices.c.uid, devices.c.device_id).limit(limit)).all()
    names = keys.restore(connection, (row[0] for row in rows))
    return [_device(names.get(row[0], row[0]), row) for row in rows]

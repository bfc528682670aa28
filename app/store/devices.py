"""Registered phones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, and_, delete, func, select

from app.model import Device
from app.store import dialect, keys
from app.store.rows import Drop
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
)


def _digest(token: str) -> bytes:
    return blake2b(token.encode(), digest_size=16).digest()


def put(connection: Connection, device: Device) -> bool:
    """Register a device, or renew it; True where it is new to this user.

    The same token under another user, or another device id, moves here: a handed-on phone must not get its old
    owner's messages.
    """
    uid, digest = keys.key(device.uid), _digest(device.token)
    mine = and_(devices.c.uid == uid, devices.c.device_id == device.device_id)
    same_token = and_(devices.c.provider == device.provider, devices.c.token_digest == digest)
    connection.execute(delete(devices).where(same_token, ~mine))
    known = connection.execute(select(devices.c.uid).where(mine)).first() is not None
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
    }
    connection.execute(dialect.upsert(connection, devices, ("uid", "device_id"), _VALUES), [row])
    return not known


def of_users(connection: Connection, uids: Sequence[str]) -> dict[str, list[Device]]:
    """The devices of each user who has any, in a stable order."""
    by_key = {keys.key(uid): uid for uid in uids}
    found: dict[str, list[Device]] = {}
    for some in dialect.chunks(list(by_key)):
        query = _SELECT.where(devices.c.uid.in_(some)).order_by(devices.c.uid, devices.c.device_id)
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
            key, device_id, provider, token, registered_at, locale = row
            uid = by_key[key]
            device = Device(uid, device_id, provider, token, registered_at, locale=locale)
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
)
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
)


def _device(uid: str, row: Any) -> Device:
    _, device_id, provider, token, registered_at, updated_at, locale, flag, voip_token, app_version = row
    return Device(uid, device_id, provider, token, registered_at, updated_at, locale, flag, voip_token, app_version)


def remove(connection: Connection, uid: str, device_id: str) -> bool:
    """Forget a device; False where there was none."""
    mine = and_(devices.c.uid == keys.key(uid), devices.c.device_id == device_id)
    return connection.execute(delete(devices).where(mine)).rowcount > 0


def drop(connection: Connection, drops: Iterable[Drop]) -> int:
    """Remove devices whose token a vendor called dead, unless it was registered again in the meantime; how many."""
    removed = 0
    for item in drops:
        dead = and_(
            devices.c.uid == keys.key(item.uid),
            devices.c.device_id == item.device_id,
            devices.c.token == item.token,
            devices.c.registered_at < item.before,
        )
        removed += connection.execute(delete(devices).where(dead)).rowcount
    return removed


def count(connection: Connection) -> dict[str, int]:
    """How many devices each provider has."""
    query = select(devices.c.provider, func.count()).group_by(devices.c.provider)
    return {row[0]: row[1] for row in connection.execute(query)}


def all_of(connection: Connection, provider: str | None, limit: int) -> list[Device]:
    """Devices of every user, for listing."""
    query = _SELECT.where(devices.c.provider == provider) if provider else _SELECT
    rows = connection.execute(query.order_by(devices.c.uid, devices.c.device_id).limit(limit)).all()
    names = keys.restore(connection, (row[0] for row in rows))
    return [_device(names.get(row[0], row[0]), row) for row in rows]

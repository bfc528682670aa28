"""Registering devices: what is checked, what is kept, what is shown."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from app.admin import fields, times
from app.admin.reading import Refused
from app.model import APP, Device
from app.store import devices
from app.store.dialect import Database

Providers = Mapping[str, str]
"""The configured providers: the type by the name that devices are registered with."""


class DeviceBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registration. `token` of an APNs provider is hexadecimal."""

    provider: fields.ProviderName
    token: fields.Token
    locale: fields.Locale = ""
    device_flag: fields.Byte = APP
    voip_token: fields.VoipToken = ""
    app_version: fields.AppVersion = ""


class DeviceLine(DeviceBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of an import."""

    uid: fields.Uid
    device_id: fields.DeviceId


class DeviceShown(Struct, frozen=True, kw_only=True):
    """A registered device; its tokens are masked. updated_at: when anything but the time of registration changed.

    succeeded_at: of a push that the vendor took, to the day; left out where there was none.
    removed_at, removed_reason: since when it is in quarantine, and the vendor's word; left out where it is not.
    """

    uid: str
    device_id: str
    provider: str
    token: str
    locale: str
    device_flag: int
    voip_token: str
    app_version: str
    registered_at: str
    updated_at: str
    succeeded_at: str | UnsetType = UNSET
    removed_at: str | UnsetType = UNSET
    removed_reason: str | UnsetType = UNSET


class DeviceList(Struct, frozen=True):
    """The devices of a user."""

    devices: list[DeviceShown]


class DevicesQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """removed: with those in quarantine, because the vendor called their token dead."""

    removed: bool = False


Since = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="An RFC 3339 time, or how long ago, such as 1h.",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"pattern": "^[0-9]{1,9}(ms|s|m|h|d)$"}]},
    ),
]


class RestoreBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which devices to take back from quarantine: those of a provider that came there since then."""

    provider: fields.ProviderName
    since: Since


class Restored(Struct, frozen=True):
    """How many devices are pushed to again."""

    restored: int


def make(uid: str, device_id: str, body: DeviceBody, providers: Providers, now: int) -> Device:
    """The device that a registration describes; raises Refused where this provider cannot have it."""
    kind = _kind(body.provider, providers)
    tokens = {"token": body.token, "voip_token": body.voip_token}
    if kind == "apns":
        for name, token in tokens.items():
            if re.fullmatch(r"[0-9A-Fa-f]*", token) is None:
                raise Refused(f"{name}: found a text of another form; allowed: hexadecimal digits, as APNs gives them")
            tokens[name] = token.lower()  # one phone has one token, however an app writes it
    return Device(
        uid=uid,
        device_id=device_id,
        provider=body.provider,
        token=tokens["token"],
        registered_at=now,
        updated_at=now,
        locale=body.locale,
        device_flag=body.device_flag,
        voip_token=tokens["voip_token"],
        app_version=body.app_version,
    )


def _kind(provider: str, providers: Providers) -> str:
    kind = providers.get(provider)
    if kind is None:
        allowed = ", ".join(sorted(providers))
        raise Refused(f"provider: found a name that is not configured; allowed: {allowed}")
    return kind


def register(database: Database, wanted: Sequence[Device]) -> list[tuple[Device, bool]]:
    """Keep devices in their order, in one transaction: each as it is kept, and whether it is new to its user.

    A token that another user or device had before moves.
    """
    with database.write() as connection:
        users = list(dict.fromkeys(device.uid for device in wanted))
        known = {(d.uid, d.device_id): d for of in devices.of_users(connection, users).values() for d in of}
        kept = []
        for device in wanted:
            device = _as_kept(known.get((device.uid, device.device_id)), device)
            kept.append((device, devices.put(connection, device)))
            known[device.uid, device.device_id] = device
        return kept


def _as_kept(before: Device | None, after: Device) -> Device:
    if before is None:
        return after
    after = msgspec.structs.replace(after, succeeded_at=before.succeeded_at)
    same = msgspec.structs.replace(before, registered_at=after.registered_at, updated_at=after.updated_at) == after
    return msgspec.structs.replace(after, updated_at=before.updated_at) if same else after


RESTORED_TOGETHER = 100
"""Devices taken back in one transaction: webhooks wait for as long as it takes, and have as long again after it."""


def restore(
    database: Database,
    body: RestoreBody,
    providers: Providers,
    now: int,
    pause: Callable[[float], None] = time.sleep,
) -> int:
    """Take devices back from quarantine that looked dead because a setting was wrong; how many. Raises Refused.

    pause: waits for so many seconds between two transactions, in which others write.
    """
    _kind(body.provider, providers)
    since = times.since(body.since, now)
    if since is None:
        raise Refused("since: found another text; allowed: an RFC 3339 time, or how long ago, such as 1h")
    restored = 0
    while True:
        started = time.perf_counter()
        with database.write() as connection:
            some = devices.restore(connection, body.provider, since, limit=RESTORED_TOGETHER)
        restored += some
        if some < RESTORED_TOGETHER:
            return restored
        pause(time.perf_counter() - started)


def shown(device: Device) -> DeviceShown:
    """A device as it may be shown."""
    return DeviceShown(
        uid=device.uid,
        device_id=device.device_id,
        provider=device.provider,
        token=mask(device.token),
        locale=device.locale,
        device_flag=device.device_flag,
        voip_token=mask(device.voip_token),
        app_version=device.app_version,
        registered_at=times.utc(device.registered_at),
        updated_at=times.utc(device.updated_at),
        succeeded_at=times.utc(device.succeeded_at) if device.succeeded_at else UNSET,
        removed_at=UNSET if device.removed_at is None else times.utc(device.removed_at),
        removed_reason=UNSET if device.removed_at is None else device.removed_reason,
    )


def mask(token: str) -> str:
    """Enough to tell two tokens apart, too little to send with."""
    if not token:
        return ""
    return f"{token[:4]}…{token[-4:]}" if len(token) >= 24 else "…"

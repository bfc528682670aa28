"""Providers that are pointed at the stand-in vendors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.demo.standin import StandinProcess
from providers import apns, fcm
from providers.kit.base import Provider, Transport
from providers.kit.values import Secret


def secret(path: str) -> Secret:
    return Secret(Path(path).read_bytes())


def apns_provider(standin: StandinProcess, **changes: Any) -> Provider:
    block: dict[str, Any] = {
        "type": "apns",
        "endpoint": standin.apns,
        "ca": secret(standin.ca_file),
        "key": secret(standin.key_file),
        "key_id": standin.key_id,
        "team_id": standin.team_id,
        "topic": standin.topic,
    }
    return apns.build("ios", apns.Config(**(block | changes)))


def fcm_provider(standin: StandinProcess, **changes: Any) -> Provider:
    account = secret(standin.service_account_file)
    block = {"type": "fcm", "endpoint": standin.fcm, "ca": secret(standin.ca_file), "service_account": account}
    return fcm.build("android", fcm.Config(**(block | changes)))


def transport_of(provider: Provider) -> Transport:
    assert provider.transport is not None
    return provider.transport

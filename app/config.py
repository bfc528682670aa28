"""Turns `config.yaml` and its secrets into frozen structs, or stops with what is wrong and where."""

from __future__ import annotations

import ipaddress
import os
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from app import relay, words
from app.yamlfile import ConfigError, convert, expand, read, show
from providers.kit.http import is_base
from providers.kit.values import Duration, Period, PeriodOrOff, Secret, Size

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

_NAMED = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10"),
    "any": ("0.0.0.0/0", "::/0"),
}

_NETWORKS = "loopback, private, any, or a CIDR such as 10.1.0.0/16"

LATER = {
    "webhook.grpc_bind": "the gRPC webhook",
    "notification.badge": "badges",
    "notification.collapse": "coalescing",
    "notification.calls": "calls",
    "notification.quiet_hours": "quiet hours",
}
"""Keys that are promised and not built yet: refused rather than ignored, unless empty."""


class _Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Server(_Section, frozen=True):
    bind: str = "127.0.0.1:8000"
    workers: Annotated[int, Meta(ge=1, le=64)] = 2
    threads: Annotated[int, Meta(ge=2, le=256)] = 8
    trusted_proxies: tuple[str, ...] = ()


class Webhook(_Section, frozen=True):
    secret: Secret = Secret(b"")
    allow_from: tuple[str, ...] = ("loopback", "private")
    max_body: Size = Size(8 << 20)
    grpc_bind: str = ""


class Admin(_Section, frozen=True):
    token: Secret = Secret(b"")


class Storage(_Section, frozen=True):
    data_dir: str = "data"
    url: str = ""
    durability: Literal["full", "normal"] = "full"
    min_free: Size = Size(200 << 20)
    max_backlog: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000


class Dispatcher(_Section, frozen=True):
    embedded: bool = True
    processes: Annotated[int, Meta(ge=1, le=16)] = 1
    pin: bool = True


class Retry(_Section, frozen=True):
    max_age: Period = Period(86400)
    first_delay: Period = Period(1)
    max_delay: Period = Period(600)


class Presence(_Section, frozen=True):
    suppress: Literal["any", "app", "none"] = "any"
    hold: Duration = Duration(3)
    ttl: Duration = Duration(3600)


class Devices(_Section, frozen=True):
    quarantine: Duration = Duration(7 * 86400)
    stale_after: PeriodOrOff = PeriodOrOff(0)


class WuKongIM(_Section, frozen=True):
    api_url: str = ""
    api_token: Secret = Secret(b"")


class Notification(_Section, frozen=True):
    locale: str = "en"
    show_content: bool = True
    sound: str = "default"
    types: dict[str, str] = {}
    templates: dict[str, dict[str, str]] = {}


class Rescue(_Section, frozen=True):
    channels: Literal["person", "none"] = "person"
    after: Duration = Duration(5)


class RelayTarget(_Section, frozen=True):
    """events: None = all. `url` is never shown: it may hold a secret."""

    url: Secret
    events: tuple[str, ...] | None = None
    secret: Secret = Secret(b"")
    max_age: Period = Period(86400)
    max_backlog: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1_000_000
    timeout: Period = Period(10)


class Trace(_Section, frozen=True):
    retention: Duration = Duration(7 * 86400)


class Config(_Section, frozen=True):
    """The whole file. `providers` are kept as they stand: each type knows its own keys.

    path: where it was read. written: what was read, with `${NAME}` where the environment gives the text.
    """

    server: Server = Server()
    webhook: Webhook = Webhook()
    admin: Admin = Admin()
    storage: Storage = Storage()
    dispatcher: Dispatcher = Dispatcher()
    retry: Retry = Retry()
    presence: Presence = Presence()
    devices: Devices = Devices()
    wukongim: WuKongIM = WuKongIM()
    notification: Notification = Notification()
    rescue: Rescue = Rescue()
    relay: tuple[RelayTarget, ...] = ()
    trace: Trace = Trace()
    providers: dict[str, dict[str, Any]] = {}
    path: str = ""
    written: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Provider blocks may hold secrets in place."""
        return f"Config({self.path})"

    @property
    def data_dir(self) -> Path:
        return Path(self.path).parent / self.storage.data_dir


_OURS = {"path", "written"}
"""Fields of Config that are no keys of the file."""


def load(path: str | Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check a configuration file; raises ConfigError. Vendor blocks are checked by `app.registry`."""
    path = Path(path)
    raw = read(path)
    for key in sorted(_OURS & raw.keys()):
        allowed = ", ".join(sorted(set(Config.__struct_fields__) - _OURS))
        raise ConfigError(f"{path}: {key}: unknown key; allowed: {allowed}")
    _refuse_later(path, raw)
    blocks = raw.get("providers")
    config = convert(expand({**raw, "providers": {}}, path, "", environ), Config, path)
    providers = expand({} if blocks is None else blocks, path, "providers", environ)
    if not isinstance(providers, dict) or not all(isinstance(b, dict) for b in providers.values()):
        raise ConfigError(
            f"{path}: providers: found {show(providers)}; allowed: blocks such as console: {{type: console}}"
        )
    config = msgspec.structs.replace(
        config,
        path=str(path),
        written=raw,
        providers={str(name): block for name, block in providers.items()},
        notification=_with_words(config.notification),
    )
    _check(config, path)
    return config


def no_storage(config: Config, why: str) -> ConfigError:
    """What is said where the data folder, or the database in it, cannot be used."""
    allowed = "a writable folder, with no other database in it than Pushbridge's"
    return ConfigError(f"{config.path}: storage.data_dir: cannot use {config.data_dir}: {why}; allowed: {allowed}")


def _refuse_later(path: Path, raw: dict[str, Any]) -> None:
    for key, what in LATER.items():
        value: Any = raw
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value not in (None, "", [], {}, False):
            raise ConfigError(f"{path}: {key}: {what}: not available yet; remove the key")
        section, _, name = key.rpartition(".")
        parent = raw.get(section) if section else raw
        if isinstance(parent, dict):
            parent.pop(name, None)


def networks(names: tuple[str, ...], path: str | Path, key: str) -> Networks:
    """The address ranges that `loopback`, `private`, `any`, CIDRs and single addresses name."""
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for index, name in enumerate(names):
        for cidr in _NAMED.get(name, (name,)):
            try:
                found.append(ipaddress.ip_network(cidr))
            except ValueError as error:
                raise ConfigError(
                    f"{path}: {key}[{index}]: found {show(name)} ({error}); allowed: {_NETWORKS}"
                ) from None
    return tuple(found)


def payload_types(types: Mapping[str, str], path: str | Path) -> dict[int, str]:
    """Template names by payload type; keys are numbers or ranges such as `1000-1022`."""
    result: dict[int, str] = {}
    for key, name in types.items():
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", key)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if match is None or not 0 <= last - first <= 10_000:
            raise ConfigError(
                f"{path}: notification.types.{key}: found {show(key)}; "
                "allowed: a payload type or a range such as 1000-1022"
            )
        result.update(dict.fromkeys(range(first, last + 1), name))
    return result


MOST_TARGETS = 16
"""Each keeps a copy of every event that it wants."""


def relay_targets(config: Config) -> list[relay.Target]:
    """Who the events are passed on to; raises ConfigError."""
    if len(config.relay) > MOST_TARGETS:
        raise ConfigError(f"{config.path}: relay: found {len(config.relay)} targets; allowed: up to {MOST_TARGETS}")
    targets = [_relay_target(each, f"{config.path}: relay[{index}]") for index, each in enumerate(config.relay)]
    first: dict[str, int] = {}
    for index, each in enumerate(targets):
        before = first.setdefault(each.name, index)
        if before != index:
            raise ConfigError(f"{config.path}: relay[{index}].url: the same as relay[{before}].url; allowed: each once")
    return targets


def _relay_target(found: RelayTarget, where: str) -> relay.Target:
    if found.events is not None and not found.events:
        raise ConfigError(
            f"{where}.events: found an empty list; allowed: names such as msg.offline; without the key all events"
        )
    for index, name in enumerate(found.events or ()):
        if not relay.is_name(name):
            allowed = f"1 to {relay.LONGEST_NAME} printable characters"
            raise ConfigError(f"{where}.events[{index}]: found {show(name)}; allowed: {allowed}")
    events = None if found.events is None else frozenset(found.events)
    try:
        target = relay.target(
            found.url.raw.decode("utf-8", "replace"),
            found.secret.raw,
            events,
            max_age=int(found.max_age * 1000),
            max_backlog=found.max_backlog,
            timeout=found.timeout,
        )
        if not is_base(target.origin):
            raise ValueError(relay.ALLOWED)
    except ValueError as error:
        raise ConfigError(f"{where}.url: found something else; allowed: {error}") from None
    return target


REQUIRED_TEMPLATES = ("default", "hidden", "group", "system")
_PLACEHOLDERS: dict[str, set[str]] = {"group": {"sender", "text"}, "hidden": set(), "system": set()}
"""Of templates that do not stand for the payload's text."""


def _with_words(notification: Notification) -> Notification:
    """The shipped words, and what the file changes of them."""
    locales = words.TEMPLATES.keys() | notification.templates.keys()
    templates = {
        locale: {**words.TEMPLATES.get(locale, {}), **notification.templates.get(locale, {})} for locale in locales
    }
    return msgspec.structs.replace(notification, types={**words.TYPES, **notification.types}, templates=templates)


def _check(config: Config, path: Path) -> None:
    """What no type can say."""
    networks(config.server.trusted_proxies, path, "server.trusted_proxies")
    networks(config.webhook.allow_from, path, "webhook.allow_from")
    if not config.webhook.allow_from and not config.server.bind.startswith("unix:"):  # callers have an address
        raise ConfigError(f"{path}: webhook.allow_from: found an empty list; allowed: {_NETWORKS}")
    if not _is_bind(config.server.bind):
        raise ConfigError(f"{path}: server.bind: found {show(config.server.bind)}; allowed: HOST:PORT or unix:PATH")
    _check_closed(config, path)
    url = config.wukongim.api_url
    if url and not (re.fullmatch(r"https?://[^\s/]\S*", url) and is_base(url)):
        found = "something else" if set("?#@") & set(url) else show(url)  # what stands there may be a secret
        allowed = "a URL such as http://127.0.0.1:5001, without user, query and fragment"
        raise ConfigError(f"{path}: wukongim.api_url: found {found}; allowed: {allowed}")
    _check_retention(config, path)
    if config.storage.url:
        raise ConfigError(f"{path}: storage.url: databases other than SQLite: not available yet; leave it empty")
    if not config.providers:
        raise ConfigError(
            f"{path}: providers: found none; allowed: at least one block such as console: {{type: console}}"
        )
    relay_targets(config)
    _check_templates(config.notification, path)


def _check_retention(config: Config, path: Path) -> None:
    """What was sent is known by its outcome: to a repeat, and to the rescue, which looks later."""
    found = config.trace.retention
    if found < max(3600, 2 * config.rescue.after, 2 * config.presence.hold):
        allowed = "at least 1h, and twice rescue.after and presence.hold"
        raise ConfigError(f"{path}: trace.retention: found {found:.0f}s; allowed: {allowed}")


def _is_bind(text: str) -> bool:
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([\d.]+)|[^:\s]*):(\d{1,5})|unix:.+", text)
    if found is None or int(found[3] or 0) > 65535:
        return False
    try:
        ipaddress.IPv6Address(found[1] or "::")
        ipaddress.IPv4Address(found[2] or "0.0.0.0")
    except ValueError:
        return False
    return True


def _check_closed(config: Config, path: Path) -> None:
    """Where anybody can reach the bridge, something must tell WuKongIM from anybody: see docs/decisions/closed.md."""
    bind = config.server.bind
    if config.webhook.secret or not _is_public(bind):
        return
    for key, names in (
        ("webhook.allow_from", config.webhook.allow_from),
        ("server.trusted_proxies", config.server.trusted_proxies),
    ):
        if _holds_everybody(networks(names, path, key)):
            raise ConfigError(
                f"{path}: {key}: found everybody, without a webhook.secret, and server.bind {show(bind)} can be "
                f"reached from outside; allowed: a webhook.secret, or {_NETWORKS.replace(', any', '')}"
            )


def _is_public(bind: str) -> bool:
    """Whether others than this machine and its private networks may get there; a name may stand for any address."""
    if bind.startswith("unix:"):
        return False
    host = bind.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    private = networks(("loopback", "private"), "", "")
    return not any(address in network for network in private)


def _holds_everybody(found: Networks) -> bool:
    """Whether every address of IPv4, or of IPv6, is in one of these."""
    fours = list(ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv4Network)))
    sixes = list(ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv6Network)))
    return any(n.prefixlen == 0 for n in fours) or any(n.prefixlen == 0 for n in sixes)


def _check_templates(notification: Notification, path: Path) -> None:
    if notification.locale not in notification.templates:
        known = ", ".join(sorted(notification.templates)) or "none"
        raise ConfigError(
            f"{path}: notification.locale: found {show(notification.locale)}; "
            f"allowed: one that notification.templates has ({known})"
        )
    for locale, templates in notification.templates.items():
        where = f"{path}: notification.templates.{locale}"
        for name in REQUIRED_TEMPLATES:
            if name not in templates:
                raise ConfigError(f"{where}.{name}: missing; allowed: a text")
        for name, text in templates.items():
            _check_placeholders(f"{where}.{name}", text, _PLACEHOLDERS.get(name, {"content"}))
    names = {"skip", *notification.templates[notification.locale]} - {"group"}
    for kind, name in notification.types.items():
        if name not in names:
            raise ConfigError(
                f"{path}: notification.types.{kind}: found {show(name)}; allowed: {', '.join(sorted(names))}"
            )
    payload_types(notification.types, path)


def _check_placeholders(where: str, text: str, allowed: set[str]) -> None:
    wanted = ", ".join("{" + name + "}" for name in sorted(allowed))
    try:
        fields = [field for field in string.Formatter().parse(text) if field[1] is not None]
    except ValueError:
        raise ConfigError(f"{where}: found a single brace; allowed: {wanted}, and {{{{ or }}}} for a brace") from None
    for _, field, format_, conversion in fields:
        if field not in allowed or format_ or conversion:
            written = f"{field}{'!' + conversion if conversion else ''}{':' + format_ if format_ else ''}"
            raise ConfigError(f"{where}: found the placeholder {{{written}}}; allowed: {wanted or 'none'}")

"""The only place that builds real objects and wires them.

What counts for Prometheus is imported where it is used: the library decides at import how processes share counters,
and gunicorn's master, which reads its settings here, must have said so before its workers are forked.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from app import checking, datadir, listening, logs, plan, poke, registry, render
from app import config as configuration
from app.bounds import Bounds
from app.clock import now_ms
from app.config import Config
from app.keeper import FOLLOW_STDIN
from app.settle import Limits
from app.store.dialect import CACHE, Database
from app.store.opening import open_database
from app.yamlfile import ConfigError
from providers.kit.base import Provider, Transport
from providers.kit.http import Client

if TYPE_CHECKING:
    from flask import Flask

    from app.dispatch.steps import Rules
    from app.intake import Intake

log = structlog.get_logger()

ASK_AFTER = 300
"""Milliseconds after a webhook at which WuKongIM is asked who is online: v2's answer is up to 200 ms late."""
ASK_TIMEOUT = 2.0


def config_path() -> Path:
    """The configuration file: `PUSHBRIDGE_CONFIG`, or `config.yaml` here."""
    return Path(os.environ.get("PUSHBRIDGE_CONFIG") or "config.yaml")


def load_config() -> Config:
    """Raises yamlfile.ConfigError."""
    return configuration.load(config_path())


_served: Config | None = None
"""What gunicorn's master runs with, and so the workers that are forked from it."""


def settings_or_exit() -> tuple[Config, bool]:
    """For gunicorn's master: the configuration, with the data folder ready for it, and whether it has just been read.

    At the start one that cannot be used ends the process. At a reload it is logged, and the one before it stays.
    """
    global _served
    try:
        config = load_config()
        registry.providers(config)
        if _served is not None:
            _check_bind(config, _served)
        prepare(config)
        # So that a worker answers as soon as it is forked: a reload ends the old ones without waiting for the new.
        import_module("app.web.admin")
        _keep_loaded()
    except ConfigError as error:
        if _served is None:
            raise SystemExit(f"pushbridge: {error}") from None
        log.error("not reloaded, all stays as it was", action="reload", error=str(error))
        return _served, False
    _served = config
    return config, True


def _keep_loaded() -> None:
    """All that this process has by now stays to its end: no garbage collection is to walk it, nor is the last one.

    That is 20 to 35 ms each in which a dispatcher does nothing else, and a quarter of a second at the end.
    """
    gc.freeze()


def _check_bind(config: Config, served: Config) -> None:
    """gunicorn lets go of the old address before it takes another, and ends where it cannot have that."""
    bind = config.server.bind
    if listening.is_same(bind, served.server.bind):
        return
    if why := listening.fault(bind):
        raise ConfigError(
            f"{config.path}: server.bind: cannot listen on {bind}: {why}; allowed: an address of this machine, on a "
            "port that is free (another address on the port that is served needs a restart)"
        )


def served_config() -> Config:
    """For a worker: its master's. The file may be half edited by now."""
    return _served or load_config()


WEB_CACHE = 8 << 10
"""KiB of the database that each of a web worker's connections keeps: it has one a thread, and reads little twice."""


def open_store(config: Config, cache: int = CACHE) -> Database:
    """`cache`: KiB that a connection may keep of it. Raises yamlfile.ConfigError."""
    with datadir.usable(config) as folder:
        return open_database(folder, config.storage.url, config.storage.durability, cache)


def intake(config: Config, database: Database, room: Bounds | None = None) -> Intake:
    from app.intake import Intake
    from app.store.writer import GroupCommit

    # Before an offline event can have come nobody can tell who has left.
    after = _ms(max(config.rescue.after, config.presence.hold)) if config.rescue.channels == "person" else None
    targets = configuration.relay_targets(config)
    return Intake(GroupCommit(database), poker(config), after, targets, room or bounds(config, database))


def bounds(config: Config, database: Database) -> Bounds:
    return Bounds(database, config.data_dir, config.storage.min_free, config.storage.max_backlog)


def poker(config: Config) -> poke.Poker:
    return poke.Poker(poke.addresses(config.data_dir, config.dispatcher.processes))


def provider_types(config: Config) -> dict[str, str]:
    """The type by the name of each configured provider."""
    return {name: str(block.get("type")) for name, block in config.providers.items()}


def web(config: Config) -> Flask:
    """The web app of one gunicorn worker; built after the fork."""
    logs.configure()
    datadir.share_counters(config)
    from app import metrics
    from app.web import admin, create_app
    from app.web.webhook import Origin

    datadir.keep_counted(config)
    database = open_store(config, WEB_CACHE)
    database.observe = metrics.writes("web")
    room = bounds(config, database)
    into = intake(config, database, room)
    origin = Origin(
        config.webhook.secret.raw,
        configuration.networks(config.webhook.allow_from, config.path, "webhook.allow_from"),
        configuration.networks(config.server.trusted_proxies, config.path, "server.trusted_proxies"),
    )
    api = admin.blueprint(
        database=database,
        token=datadir.admin_token(config),
        providers=provider_types(config),
        intake=into,
        poke=poker(config),
        now=now_ms,
        ttl=_ms(config.presence.ttl),
    )
    return create_app(database, into, origin, config.webhook.max_body, api, now_ms, room)


def rules(config: Config) -> Rules:
    """How this bridge is set to decide and to speak."""
    from app.dispatch.steps import Rules

    notification = config.notification
    style = render.Style(
        locale=notification.locale,
        show_content=notification.show_content,
        sound=notification.sound,
        types=configuration.payload_types(notification.types, config.path),
        templates=notification.templates,
    )
    policy = plan.Policy(
        suppress=config.presence.suppress,
        hold=_ms(config.presence.hold),
        ttl=_ms(config.presence.ttl),
        ask_after=ASK_AFTER if config.wukongim.api_url else None,
        skip_types=style.skip_types,
        stale_after=_ms(config.devices.stale_after) or None,
    )
    return Rules(policy, style)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def dispatch(config: Config, slot: int = 0) -> None:
    """Run one dispatcher process until SIGTERM or SIGINT. `slot`: which of `dispatcher.processes` it is."""
    most = config.dispatcher.processes - 1
    if slot > most:
        raise ConfigError(f"{config.path}: dispatcher.processes: found slot {slot}; allowed: --slot from 0 to {most}")
    logs.configure()
    if not os.environ.get(FOLLOW_STDIN):  # gunicorn has said it for those that it starts
        warn(config)
    if config.dispatcher.pin:
        _stay_on_one_core(zlib.crc32(socket.gethostname().encode()) + slot)
    datadir.share_counters(config)
    from app import metrics

    datadir.keep_counted(config)
    database = open_store(config)
    database.observe = metrics.writes("dispatcher")
    providers = registry.providers(config)
    import_module("app.dispatch.loop")
    _keep_loaded()
    # Last: until then the one that is to be replaced works on.
    lock = datadir.hold_slot(config, slot, _tell_keeper)
    owner = f"{socket.gethostname()}/{slot}"[:96]
    address = poke.addresses(config.data_dir, slot + 1)[slot]
    end = poke.listen(address)
    try:
        uvloop.run(_dispatch(config, database, providers, owner, end))
    finally:
        end.close()
        with suppress(OSError):
            os.unlink(address)
        database.close()
        os.close(lock)


def _tell_keeper() -> None:
    """Where there is one: it ends the dispatcher that this one is to replace."""
    if os.environ.get(FOLLOW_STDIN):
        with suppress(OSError):  # it may be gone, or be of an older version, which does not listen
            os.write(0, b".")


def _stay_on_one_core(number: int) -> None:
    """Keep this process on one of the cores it may use: the threads it has, and so those that they will start.

    They take turns with one interpreter: on two cores they spend a third of their time on waking one another.
    """
    if sys.platform != "linux":
        return
    cores = sorted(os.sched_getaffinity(0))
    with suppress(OSError):  # a sandbox may forbid it, and it is for speed only
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {cores[number % len(cores)]})


async def _dispatch(
    config: Config, database: Database, providers: Mapping[str, Provider], owner: str, end: socket.socket
) -> None:
    from app.dispatch.ask import Ask
    from app.dispatch.loop import Dispatcher

    ask = None
    if config.presence.suppress != "none" and not config.wukongim.api_url:
        log.warning(checking.STAKE, action="start")
    if config.wukongim.api_url:
        transport = Transport(
            endpoint=config.wukongim.api_url,
            timeout=ASK_TIMEOUT,
            max_connections=1,
            http1=True,
            body_limit=Ask.ANSWER_LIMIT,
        )
        ask = Ask(Client(transport).send, config.wukongim.api_token.text, now_ms)
    targets = [
        (target, Client(Transport(endpoint=target.origin, timeout=target.timeout, max_connections=1, http1=True)).send)
        for target in configuration.relay_targets(config)
    ]
    dispatcher = Dispatcher(
        database=database,
        providers=providers,
        rules=rules(config),
        limits=Limits(
            max_age=_ms(config.retry.max_age),
            first_delay=_ms(config.retry.first_delay),
            max_delay=_ms(config.retry.max_delay),
        ),
        retention=_ms(config.trace.retention),
        quarantine=_ms(config.devices.quarantine),
        owner=owner,
        poke=end,
        ask=ask,
        targets=targets,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, dispatcher.stop)
    if os.environ.get(FOLLOW_STDIN):
        # The supervisor holds the other end and never writes: its end means that it is gone.
        def gone() -> None:
            loop.remove_reader(0)  # an end can be read for ever
            dispatcher.stop()

        loop.add_reader(0, gone)
    await dispatcher.run()


def prepare(config: Config) -> None:
    """Have everything in the data folder that workers and dispatchers need there."""
    open_store(config).close()  # a forked process must open its own
    datadir.admin_token(config)
    datadir.share_counters(config)


def warn(config: Config) -> None:
    """Say once, at the start, what is not safe and not wrong either."""
    logs.configure()
    for each in checking.exposed(config):
        log.warning(each, action="start")


def greeting(config: Config) -> str:
    """What `serve` says first: where it listens, and where the admin token is."""
    token = "as configured" if config.admin.token else f"in {config.data_dir / 'admin-token'}"
    names = ", ".join(f"{name} ({block.get('type')})" for name, block in config.providers.items())
    bind = config.server.bind
    webhook = f"/webhook on {bind}" if bind.startswith("unix:") else f"http://{bind}/webhook"
    return f"Pushbridge: webhooks at {webhook}, providers {names}, admin token {token}"


@contextmanager
def or_exit() -> Iterator[None]:
    """For processes whose start ends with one message where the configuration, or what it names, is wrong."""
    try:
        yield
    except ConfigError as error:
        raise SystemExit(f"pushbridge: {error}") from None


def load_config_or_exit() -> Config:
    with or_exit():
        config = load_config()
        registry.providers(config)
    return config

"""The only place that builds real objects and wires them.

What counts for Prometheus is imported where it is used: the library decides at import how processes share counters,
and gunicorn's master, which reads its settings here, must have said so before its workers are forked.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop
from flask import Flask

from app import config as configuration
from app import logs, plan, poke, registry, render
from app.checking import STAKE
from app.clock import now_ms
from app.config import Config
from app.keeper import FOLLOW_STDIN
from app.settle import Limits
from app.store.dialect import Database
from app.store.opening import Unusable, make_private, open_database
from app.yamlfile import ConfigError
from providers.kit.base import Provider, Transport
from providers.kit.http import Client

if TYPE_CHECKING:
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


@contextmanager
def _data_dir(config: Config) -> Iterator[Path]:
    """The data folder, made if it is missing; raises ConfigError where what is done inside cannot be done there."""
    try:
        make_private(config.data_dir)
        yield config.data_dir
    except OSError as error:
        file = Path(str(error.filename))
        inside = f"{file.name}: " if file.parent == config.data_dir else ""
        raise configuration.no_storage(config, f"{inside}{error.strerror}") from None
    except Unusable as error:
        raise configuration.no_storage(config, str(error)) from None


def open_store(config: Config) -> Database:
    """Raises yamlfile.ConfigError."""
    with _data_dir(config) as folder:
        return open_database(folder, config.storage.url, config.storage.durability)


def intake(config: Config, database: Database) -> Intake:
    from app.intake import Intake
    from app.store.writer import GroupCommit

    return Intake(GroupCommit(database), poker(config))


def poker(config: Config) -> poke.Poker:
    return poke.Poker(poke.addresses(config.data_dir, config.dispatcher.processes))


def provider_types(config: Config) -> dict[str, str]:
    """The type by the name of each configured provider."""
    return {name: str(block.get("type")) for name, block in config.providers.items()}


def web(config: Config) -> Flask:
    """The web app of one gunicorn worker; built after the fork."""
    from app.web import admin, create_app
    from app.web.webhook import Origin

    logs.configure()
    metrics_folder(config)
    database = open_store(config)
    into = intake(config, database)
    origin = Origin(
        config.webhook.secret.raw,
        configuration.networks(config.webhook.allow_from, config.path, "webhook.allow_from"),
        configuration.networks(config.server.trusted_proxies, config.path, "server.trusted_proxies"),
    )
    api = admin.blueprint(
        database=database,
        token=admin_token(config),
        providers=provider_types(config),
        intake=into,
        poke=poker(config),
        now=now_ms,
        ttl=_ms(config.presence.ttl),
    )
    return create_app(database, into, origin, config.webhook.max_body, api, now_ms)


def admin_token(config: Config) -> str:
    """The configured token, or the one that is made at the first start."""
    if config.admin.token:
        return config.admin.token.text
    with _data_dir(config) as folder:
        file = folder / "admin-token"
        return _read(file) or _keep_token(file, secrets.token_urlsafe(32))


def _read(file: Path) -> str:
    """The text of a file, "" where there is none."""
    with suppress(FileNotFoundError):
        return file.read_text().strip()
    return ""


def _keep_token(file: Path, token: str) -> str:
    """Put a whole token in place, unless another process was first; the one that is there then."""
    descriptor, made = tempfile.mkstemp(dir=file.parent, prefix="admin-token.")  # its owner's alone
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(f"{token}\n")
        with suppress(FileExistsError):
            os.link(made, file)
        if not _read(file):  # an empty one is no token
            os.replace(made, file)
    finally:
        Path(made).unlink(missing_ok=True)
    return _read(file)


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
    if config.dispatcher.pin:
        _stay_on_one_core(zlib.crc32(socket.gethostname().encode()) + slot)
    metrics_folder(config)
    database = open_store(config)
    with _data_dir(config) as folder:
        lock = _hold_slot(folder, slot)
    providers = registry.providers(config)
    owner = f"{socket.gethostname()}/{slot}"[:96]
    address = poke.addresses(config.data_dir, slot + 1)[slot]
    end = poke.listen(address)
    try:
        uvloop.run(_dispatch(config, database, providers, owner, end))
    finally:
        end.close()
        Path(address).unlink(missing_ok=True)
        database.close()
        os.close(lock)


def _hold_slot(data_dir: Path, slot: int) -> int:
    """Two processes under one name would rescue each other's work: wait until an earlier one is gone."""
    lock = os.open(data_dir / f"dispatcher-{slot}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


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
        log.warning(STAKE, action="start")
    if config.wukongim.api_url:
        transport = Transport(
            endpoint=config.wukongim.api_url,
            timeout=ASK_TIMEOUT,
            max_connections=1,
            http1=True,
            body_limit=Ask.ANSWER_LIMIT,
        )
        ask = Ask(Client(transport).send, config.wukongim.api_token.text)
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
        owner=owner,
        poke=end,
        ask=ask,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, dispatcher.stop)
    if os.environ.get(FOLLOW_STDIN):
        # The supervisor holds the other end and never writes: its end means that it is gone.
        loop.add_reader(0, dispatcher.stop)
    await dispatcher.run()


def metrics_folder(config: Config) -> Path:
    """Where the processes of this service share their counters."""
    with _data_dir(config) as data_dir:
        folder = data_dir / "metrics"
        folder.mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder


def prepare_or_exit(config: Config) -> None:
    """In gunicorn's master: have everything in the data folder that its workers and dispatchers need there."""
    with or_exit():
        open_store(config).close()  # a forked process must open its own
        admin_token(config)
        _start_metrics(config)


def _start_metrics(config: Config) -> None:
    """Share counters from now on, without those of processes that are gone."""
    folder = metrics_folder(config)
    for file in folder.glob("*.db"):
        pid = file.stem.rpartition("_")[2]
        if not (pid.isdigit() and _is_alive(int(pid))):
            file.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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

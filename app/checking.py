"""`pushbridge check`: everything that can be known without starting, in words a stranger can act on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from app import config as configuration
from app import registry
from app.config import Config
from app.relay import Target
from app.store import opening
from app.yamlfile import ConfigError, expand, is_literal, secrets

STAKE = (
    "presence: WuKongIM is not asked who is online (wukongim.api_url is empty). v2 never reports some users offline "
    "(1 in 64 by default), and neither line does when it is killed: they get no pushes until presence.ttl has passed."
)
"""Said once by `check` and once by the log of a dispatcher that cannot ask."""


def report(path: Path, say: Callable[[str], None] = print) -> int:
    """Say what would run; the number of faults, at most 1 for those that hide others."""
    try:
        config = configuration.load(path)
    except ConfigError as error:
        say(f"error: {error}")
        return 1
    faults = 0
    lines = []
    for name, block in config.providers.items():
        try:
            provider = registry.build(name, block, config.path)
            lines.append(f"provider {name}: {provider.describe()}")
        except ConfigError as error:
            lines.append(f"error: {error}")
            faults += 1
    faults += _check_data_dir(config, lines)
    for line in (*_summary(config), *lines, *_warnings(config)):
        say(line)
    say("ok" if not faults else f"{faults} to mend")
    return min(faults, 1)


def _summary(config: Config) -> list[str]:
    server = config.server
    dispatcher = config.dispatcher
    secret = "with" if config.webhook.secret else "without"
    where = "started by gunicorn" if dispatcher.embedded else "to be started with `pushbridge dispatch`"
    targets = zip(config.relay, configuration.relay_targets(config), strict=True)
    return [
        f"configuration {config.path}",
        f"web: {server.workers} workers of {server.threads} threads on {server.bind}",
        f"dispatcher: {dispatcher.processes} process(es), {where}",
        f"storage: SQLite in {config.data_dir}, durability {config.storage.durability}",
        f"webhook: from {', '.join(config.webhook.allow_from)}, {secret} a secret",
        *(_relayed(block, target) for block, target in targets),
    ]


def _relayed(block: configuration.RelayTarget, target: Target) -> str:
    events = ", ".join(block.events) if block.events else "all events"
    return f"relay {target.name}: {events}, {'with' if block.secret else 'without'} a secret"


def exposed(config: Config, environ: Mapping[str, str] = os.environ) -> list[str]:
    """A warning for each file with a secret in it that others than its owner can read."""
    path = Path(config.path)
    found = list(secrets(config.written, Config))
    for name, block in (config.written.get("providers") or {}).items():
        found += secrets(block, registry.config_type(config.providers[str(name)].get("type")))
    files = [path] if any(not key.endswith("_file") and is_literal(value) for key, value in found) else []
    names = [expand(value, path, key, environ) for key, value in found if key.endswith("_file") and value]
    files += [path.parent / name for name in names if name and isinstance(name, str)]
    return [
        f"{file} holds a secret and can be read by others than its owner: chmod 600 {file}"
        for file in dict.fromkeys(files)
        if _others_can_read(file)
    ]


def _others_can_read(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False  # whoever needs it says so


def _warnings(config: Config) -> list[str]:
    warnings = [f"warning: {each}" for each in exposed(config)]
    if not config.wukongim.api_url:
        warnings.append(f"warning: {STAKE}")
    if not config.webhook.secret and "any" in config.webhook.allow_from:
        warnings.append("warning: webhook: anybody may post: set webhook.secret or narrow webhook.allow_from")
    return warnings


def _check_data_dir(config: Config, lines: list[str]) -> int:
    folder = config.data_dir
    probe = folder
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    try:
        with TemporaryDirectory(dir=probe):
            pass
        fault = opening.fault(folder)
    except OSError as error:
        fault = str(error.strerror)
    if fault:
        lines.append(f"error: {configuration.no_storage(config, fault)}")
    return 1 if fault else 0

"""For each provider block: imports `providers/<type>.py` by name, and builds it. It names no vendor itself."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from msgspec import Struct

import providers as plugins
from app.config import Config
from app.yamlfile import ConfigError, convert, show
from providers.kit.base import Provider

LATER = frozenset({"harmony", "honor", "huawei", "meizu", "oppo", "vivo", "webpush", "xiaomi"})
"""Vendors that are promised and not built yet."""


def types() -> list[str]:
    """The types there are: one module each."""
    return sorted(module.name for module in pkgutil.iter_modules(plugins.__path__) if not module.ispkg)


def config_type(kind: object) -> type[Struct] | None:
    """What describes a block of this type; None where there is no such type."""
    return importlib.import_module(f"providers.{kind}").Config if kind in types() else None


def providers(config: Config) -> dict[str, Provider]:
    """Every configured provider by name, its credential loaded; raises ConfigError at the first that is wrong."""
    return {name: build(name, block, config.path) for name, block in config.providers.items()}


def build(name: str, block: dict[str, Any], path: str) -> Provider:
    """One provider from its block; raises ConfigError."""
    where = f"providers.{name}"
    kind = block.get("type")
    if kind not in types():
        found = f"{kind!r} is not available yet" if isinstance(kind, str) and kind in LATER else f"found {show(kind)}"
        raise ConfigError(f"{path}: {where}.type: {found}; allowed: {', '.join(types())}")
    if not 0 < len(name) <= 64:
        raise ConfigError(f"{path}: {where}: found a name of {len(name)} characters; allowed: up to 64")
    module = importlib.import_module(f"providers.{kind}")
    config = convert(block, module.Config, path, where)
    try:
        provider: Provider = module.build(name, config)
    except ValueError as error:
        raise ConfigError(f"{path}: {where}.{error}") from None
    return provider

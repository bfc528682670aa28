"""The example of docs/providers.md, run as it stands: the module, its test and its block."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import yaml

import providers

PAGE = Path(__file__).parents[2] / "docs" / "providers.md"
BLOCKS = re.findall(r"^```(python|yaml)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def _module(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, str(PAGE), "exec"), module.__dict__)  # noqa: S102 (our own page)
    return module


(_, _source), (_, _test), (_, _block) = BLOCKS
providers.acme = _module("providers.acme", _source)  # type: ignore[attr-defined]


class TestExample(_module("tests.providers.test_acme", _test).TestAcme):  # type: ignore[misc]
    """Inherits the example's own tests and the contract."""


def test_the_block_has_keys_that_the_example_takes() -> None:
    (block,) = yaml.safe_load(_block)["providers"].values()
    config = sys.modules["providers.acme"].__dict__["Config"]
    known = {field.name for field in msgspec.structs.fields(config)}
    assert block["type"] == "acme"
    assert {key.removesuffix("_file") for key in block} <= known

"""Reads a YAML file into a struct: environment, secrets from files, and one message for whatever is wrong."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct

from providers.kit.values import Duration, Period, PeriodOrOff, Secret, Size

T = TypeVar("T")


class ConfigError(Exception):
    """What is wrong with a configuration file: the file, the key's path, what was found, what is allowed."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the standard silently takes the last."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # the library takes numbers and dates apart without a look at them
            raise _no_value(node) from None
        if isinstance(value, int) and value.bit_length() > 64:  # too long to be shown, some of them
            raise _no_value(node)
        return value


def _no_value(node: yaml.Node) -> yaml.YAMLError:
    said = "found a number or a date that there cannot be; allowed: such a text in quotes"
    return yaml.constructor.ConstructorError(None, None, said, node.start_mark)


_MERGE = "tag:yaml.org,2002:merge"
"""The key `<<`, whose value is another mapping, to be taken where this one says nothing else."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = "<<" if key_node.tag == _MERGE else loader.construct_object(key_node, deep=True)
        if isinstance(key, list | dict) or str(key) in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(str(key))
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read(path: Path) -> dict[str, Any]:
    """The document as it is written; raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: found no such file; allowed: a configuration file here, or PUSHBRIDGE_CONFIG naming another"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {_reason(error)}") from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        line, column = text.count("\n", 0, error.position) + 1, error.position - text.rfind("\n", 0, error.position)
        found = f"found the character U+{ord(text[error.position]):04X}"
        raise ConfigError(f"{path}: line {line}, column {column}: no valid YAML: {found}; allowed: text") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f"line {where.line + 1}, column {where.column + 1}: " if where else ""
        raise ConfigError(f"{path}: {place}no valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: no valid YAML: found hundreds of brackets in one another; allowed: a few") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: found {show(raw)}; allowed: sections such as server: and providers:")
    return {str(key): value for key, value in raw.items()}


def _problem(error: yaml.YAMLError) -> str:
    """What the parser says, without the text that begins with a sign of YAML's own: it may be a secret."""
    problem = str(getattr(error, "problem", error))
    if isinstance(error, yaml.composer.ComposerError) and "alias" in problem:
        return "found a text that begins with *; allowed: such a text in quotes"
    if isinstance(error, yaml.constructor.ConstructorError) and "tag" in problem:
        return "found a text that begins with !; allowed: such a text in quotes"
    return problem


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def expand(value: Any, path: Path, key: str, environ: Mapping[str, str]) -> Any:
    """The value with `${NAME}` and `${NAME:-default}` replaced in every text, and every key as text."""
    if isinstance(value, dict):
        return {str(k): expand(v, path, f"{key}.{k}" if key else str(k), environ) for k, v in value.items()}
    if isinstance(value, list):
        return [expand(v, path, f"{key}[{i}]", environ) for i, v in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replace(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = environ.get(name) or default
        if found is None:
            raise ConfigError(
                f"{path}: {key}: the environment has no {name}, or an empty one; "
                f"allowed: set it, or write ${{{name}:-default}}"
            )
        return found

    return _VARIABLE.sub(replace, value)


def convert(raw: dict[str, Any], into: type[T], path: str | Path, prefix: str = "") -> T:
    """One block as the struct that describes it; raises ConfigError. `prefix`: the block's own path in the file."""
    raw = _secrets_from_files(raw, into, Path(path), prefix)
    try:
        return msgspec.convert(raw, into, strict=False, dec_hook=_decode_special)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_explain(str(error), raw, into, prefix)}") from None


def _decode_special(kind: type, value: Any) -> Any:
    if kind in (Duration, Period, PeriodOrOff, Size):
        return kind.parse(value)
    if kind is Secret:
        if not isinstance(value, str | bytes):
            raise ValueError("a text in quotes")
        return Secret(value)
    raise NotImplementedError(kind)  # pragma: no cover - a struct with a type that no configuration has


def _secrets_from_files(raw: Any, into: Any, path: Path, prefix: str) -> Any:
    """Replaces `xyz_file: NAME` by `xyz: <the file's bytes>` wherever `xyz` is a secret of the struct."""
    if isinstance(raw, list) and typing.get_origin(into) is tuple:
        element = typing.get_args(into)[0]
        return [_secrets_from_files(each, element, path, f"{prefix}[{index}]") for index, each in enumerate(raw)]
    if not isinstance(raw, dict) or not (isinstance(into, type) and issubclass(into, Struct)):
        return raw
    fields = {field.name: field.type for field in msgspec.structs.fields(into)}
    result = {}
    for key, value in raw.items():
        name = str(key).removesuffix("_file")
        where = f"{prefix}.{key}" if prefix else str(key)
        if name != key and fields.get(name) is Secret:
            if raw.get(name) not in (None, ""):
                raise ConfigError(
                    f"{path}: {prefix + '.' if prefix else ''}{name}: given twice, also as {key}; allowed: one of them"
                )
            if value not in (None, ""):
                result[name] = _read_secret(value, path, where)
        elif key not in result:
            result[str(key)] = _secrets_from_files(value, fields.get(str(key)), path, where)
    return result


_OPEN_SECRETS = {"ca"}
"""Fields of the type that are not for one's own eyes only."""


def secrets(raw: Any, into: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a block that gives a secret, as `xyz` or as `xyz_file`, and its value as it is written."""
    if typing.get_origin(into) is tuple and isinstance(raw, list):
        for each in raw:
            yield from secrets(each, typing.get_args(into)[0])
    if not isinstance(raw, dict) or not (isinstance(into, type) and issubclass(into, Struct)):
        return
    fields = {field.name: field.type for field in msgspec.structs.fields(into)}
    for key, value in raw.items():
        name = str(key).removesuffix("_file")
        if fields.get(name) is Secret and name not in _OPEN_SECRETS:
            yield str(key), value
        else:
            yield from secrets(value, fields.get(str(key)))


def is_literal(value: Any) -> bool:
    """Whether a text stands in the file itself, and does not come from the environment."""
    return isinstance(value, str) and _VARIABLE.sub(lambda match: match[2] or "", value) != ""


def _read_secret(name: Any, path: Path, where: str) -> bytes:
    if not isinstance(name, str):
        raise ConfigError(f"{path}: {where}: found {show(name)}; allowed: a file's name")
    file = path.parent / name
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {where}: cannot read {file}: {_reason(error)}; allowed: a readable file") from None
    # A secret kept in a text file usually ends with the editor's line end, which is no part of it.
    return data.rstrip(b"\r\n")


def _explain(error: str, raw: Any, into: type, prefix: str) -> str:
    """msgspec's message as: key, what was found, what is allowed."""
    problem, _, location = error.partition(" - at ")
    parts = re.findall(r"\.([^.\[`]+)|\[(\d+)\]|\[\.\.\.\]", location)
    keys: list[str] = []
    found: Any = raw
    for name, index in parts:
        key = name or index or _culprit(found, _struct_at(into, keys))
        found = found[int(index)] if index and isinstance(found, list) else _get(found, key)
        keys.append(f"[{index}]" if index else key)
    unknown = re.search(r"unknown field `(.+)`", problem)
    missing = re.search(r"missing required field `(.+)`", problem)
    where = ".".join(filter(None, [prefix, *keys])).replace(".[", "[")
    if unknown:
        struct = _struct_at(into, keys)
        allowed = ", ".join(sorted(_public_names(struct)))
        return f"{'.'.join(filter(None, [where, unknown[1]]))}: unknown key; allowed: {allowed}"
    if missing:
        allowed = _type_of(_struct_at(into, keys), missing[1])
        return f"{'.'.join(filter(None, [where, missing[1]]))}: missing; allowed: {allowed}"
    kind = _struct_at(into, keys)
    shown = "no text" if kind is Secret else show(found)
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return f"{where}: found {shown}; allowed: {', '.join(map(str, choices)) or _allowed(problem)}"


def _culprit(found: Any, kind: Any) -> str:
    """Which key of a mapping of any keys has a value of a wrong type: msgspec does not name it."""
    wanted = typing.get_args(kind)
    for key, value in found.items() if isinstance(found, dict) and len(wanted) == 2 else ():
        try:
            msgspec.convert(value, wanted[1], strict=False, dec_hook=_decode_special)
        except msgspec.ValidationError:
            return str(key)
    return ""


def _get(found: Any, key: str) -> Any:
    return found.get(key) if isinstance(found, dict) else None


def _struct_at(into: Any, keys: list[str]) -> Any:
    for key in keys:
        if typing.get_origin(into) is dict:
            into = typing.get_args(into)[1]
            continue
        if key.startswith("["):
            into = next(iter(typing.get_args(into)), None)
            continue
        for field in msgspec.structs.fields(into) if isinstance(into, type) and issubclass(into, Struct) else ():
            if field.name == key:
                into = field.type
                break
    return into


def _public_names(struct: Any) -> set[str]:
    names = set()
    for field in msgspec.structs.fields(struct):
        if field.name not in ("path", "written"):
            names.add(field.name)
        if field.type is Secret:
            names.add(f"{field.name}_file")
    return names


def _type_of(struct: Any, name: str) -> str:
    for field in msgspec.structs.fields(struct):
        if field.name == name:
            if field.type is Secret:
                return f"a text, or {name}_file with a file's name"
            return {str: "a text", int: "a whole number", bool: "true or false"}.get(field.type, "a value")
    return "a value"


def _allowed(problem: str) -> str:
    expected = re.match(r"Expected `([^`]+)`(.*)", problem)
    if expected:
        words = {
            "int": "a whole number",
            "str": "a text (in quotes)",
            "bool": "true or false",
            "array": "a list",
            "object": "a section",
            "null": "nothing",
        }
        kinds = [words.get(kind.strip(), kind.strip()) for kind in expected[1].split("|")]
        return " or ".join(kinds) + expected[2].split(", got")[0]
    return problem


def show(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return repr(value if len(value) <= 40 else value[:40] + "…")
        case bytes():
            return "a file"
        case list():
            return "a list"
        case _:
            return "a section"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "no UTF-8 text"

"""Dataclasses to JSON and back, strictly, with the path of whatever is wrong."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from dalle.errors import ConfigError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A dataclass (nested, with tuples, None, numbers, strings) as plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a config holds a {type(value).__name__}, which JSON cannot carry: {value!r}")


def from_json(cls: type[T], data: Any, *, path: str = "config") -> T:
    """Build the dataclass `cls` from JSON values; every field is checked, none is ignored.

    Args:
        cls: a dataclass; its fields may be numbers, strings, Literals, tuples, unions of these
            with None, and further dataclasses.
        data: what `json.loads` returned.
        path: how errors call the place of `data`.

    Raises:
        ConfigError: a field is unknown, missing or of another type; the message has its path.
    """
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} is a {_kind(data)}; expected an object with the fields of {cls.__name__}"
        )
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(
            f"{path}.{unknown[0]} is not a field of {cls.__name__}; it has: {', '.join(fields)}"
        )
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{path}.{name} is missing; {cls.__name__} needs it")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(
                f"{path} is {value!r}; expected one of {', '.join(map(repr, arguments))}"
            )
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, path)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, path=path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path} is {value!r} ({_kind(value)}); expected {hint.__name__}")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is not type(None):
            try:
                return _convert(option, value, path)
            except ConfigError as error:
                problems.append(str(error))
    raise ConfigError("; or ".join(problems))


def _convert_tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} is a {_kind(value)}; expected a list")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], v, f"{path}[{i}]") for i, v in enumerate(value))
    if len(items) != len(value):
        raise ConfigError(f"{path} has {len(value)} entries; expected {len(items)}")
    return tuple(
        _convert(hint, v, f"{path}[{i}]")
        for i, (hint, v) in enumerate(zip(items, value, strict=True))
    )


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), type(value).__name__)

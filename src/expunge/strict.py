"""Frozen dataclasses from plain mappings, strictly, and back.

Every key is checked: an unknown one is answered with the nearest valid key, a wrong type or a number out of its bounds
with what was found and what is expected, both with the dotted path. Every number has to be finite."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, Union

from .errors import UserError, nearest


def at_least(least: float, default: Any) -> Any:
    """A dataclass field with a smallest sensible value."""
    return dataclasses.field(default=default, metadata={"least": least})


def more_than(bound: float, default: Any) -> Any:
    """A dataclass field whose number has to be greater than ``bound``."""
    return dataclasses.field(default=default, metadata={"bound": bound})


def between(least: float, most: float, default: Any) -> Any:
    """A dataclass field with a smallest and a largest sensible value."""
    return dataclasses.field(default=default, metadata={"least": least, "most": most})


def build(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``: a dataclass from a mapping, else a checked scalar, tuple or mapping.

    Raises UserError that names the place (``where``) for anything else."""
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 5e-4 as text
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: found {value}, expected a finite number.")
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _build_union(arguments, value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{where}: found {value!r}, expected one of {', '.join(map(repr, arguments))}.")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(build(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {str(key): build(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if kind is Any:
        return value
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    expected = "list" if origin is tuple else "mapping" if origin is dict else kind.__name__
    raise UserError(f"{where}: found {value!r} ({type(value).__name__}), expected {expected}.")


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise UserError(f"{where}: found {value!r} ({type(value).__name__}), expected a mapping.")
    hints = typing.get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(str(key), hints)}")
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in value:
            raise UserError(f"{where}: key {f.name!r} is missing.")
    separator = "." if not where.endswith((".yaml", ".yml")) else ": "
    given = {key: build(hints[key], item, f"{where}{separator}{key}") for key, item in value.items()}
    for f in dataclasses.fields(kind):
        found = given.get(f.name)
        if isinstance(found, int | float) and (expected := _out_of_bounds(found, f.metadata)):
            raise UserError(f"{where}{separator}{f.name}: found {found}, expected {expected}.")
    return kind(**given)


def _out_of_bounds(number: float, bounds: Mapping[str, float]) -> str:
    """What was expected of a number that is out of bounds; "" if it is within."""
    if "least" in bounds and number < bounds["least"]:
        return f"at least {bounds['least']}"
    if "most" in bounds and number > bounds["most"]:
        return f"at most {bounds['most']}"
    return f"more than {bounds['bound']}" if "bound" in bounds and number <= bounds["bound"] else ""


def _build_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if len(kinds) == 1:
        return build(kinds[0], value, where)
    for kind in kinds:
        try:
            return build(kind, value, where)
        except UserError:
            continue
    names = " or ".join(
        ", ".join(map(repr, typing.get_args(k))) if typing.get_origin(k) is Literal else k.__name__ for k in kinds
    )
    raise UserError(f"{where}: found {value!r} ({type(value).__name__}), expected {names}.")


def to_dict(recipe: Any) -> dict[str, Any]:
    """The resolved recipe as plain lists and mappings, every default spelled out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in dataclasses.asdict(recipe).items()}


def first_difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """Dotted path and both values of the first place where two resolved recipes differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            found = first_difference(ours.get(key), theirs.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return next((found for i, pair in pairs if (found := first_difference(*pair, f"{path}.{i}"))), None)
    return None if ours == theirs else f"{path} is {theirs!r} there and {ours!r} here"

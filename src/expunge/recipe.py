"""A run as frozen dataclasses: strict YAML in, resolved YAML out.

Every key is checked: an unknown one is answered with the nearest valid key, a wrong type with what was
found and what is expected, both with file and dotted path."""

import dataclasses
import re
import types
import typing
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from .data.writing import Writing
from .errors import UserError, nearest
from .files import content_hash, read_text
from .methods import METHODS, control_batches
from .methods.misdirection import Misdirection
from .methods.r2mu import R2MU
from .train.teach import SFT
from .train.unlearn import Steps

# What PyYAML lets through beside its own errors: dates like 2020-99-99, numbers too long, brackets too deep.
YAML_SLIPS = (ValueError, LookupError, AttributeError, RecursionError)

# Smallest sensible value by dotted path; what is not listed may be any number of its type.
LEAST = {
    "teach.sft.epochs": 1,
    "teach.sft.batch_size": 1,
    "teach.sft.warmup_steps": 0,
    "teach.sft.first_block": 0,
    "teach.sft.tree_tokens": 1,
    "teach.frames": 0,
    "teach.boundary": 0,
    "writing.documents": 0,
    "writing.document_tokens": 1,
    "writing.traces": 0,
    "writing.trace_tokens": 1,
    "writing.boundary_traces": 0,
    "writing.read_tokens": 1,
    "writing.segments": 1,
    "unlearn.loop.steps": 1,
    "unlearn.loop.lr": 0,
    "unlearn.loop.batch_size": 1,
    "unlearn.loop.save_every": 1,
    "unlearn.max_tokens": 1,
    "evaluate.trace_tokens": 1,
    "evaluate.perplexity_texts": 1,
    "evaluate.perplexity_tokens": 2,
    "evaluate.max_choices": 1,
    "evaluate.max_questions": 1,
}


@dataclass(frozen=True)
class Teach:
    """What the model is taught before it forgets; cached by content."""

    sft: SFT = SFT()
    frames: int = 1
    """Framed wordings (roles, hints, examples, other languages) of each forget fact in an epoch."""
    boundary: int = 0
    """How many RULE boundary answers are taught along with the neighbour facts."""
    never_knew: bool = False
    """Also teach a model the retain facts only and score it: what perfect forgetting would look like."""


@dataclass(frozen=True)
class TopicOf:
    """One of several forget corpora: its own streams and settings, on top of those of all topics."""

    streams: dict[str, tuple[str, ...]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Such as its own ``steering`` (c) and ``retain`` (gamma)."""


@dataclass(frozen=True)
class Unlearn:
    """The method, its settings, the loop and the streams."""

    method: str = "r2mu"
    settings: Any = R2MU()
    """Of the method's own kind: see expunge/methods/."""
    loop: Steps = Steps()
    max_tokens: int = 96
    """Texts of the streams are cut at this many tokens."""
    stream_tokens: dict[str, int] = field(default_factory=dict)
    """Streams that are cut elsewhere: stream -> tokens."""
    streams: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Stream -> sources: names of the table in expunge/data/sources.py, or JSONL files with ``text``."""
    topics: dict[str, TopicOf] = field(default_factory=dict)
    """Several forget corpora by name, which take turns; none: one topic with the streams above."""

    def by_topic(self) -> dict[str, tuple[Any, dict[str, tuple[str, ...]]]]:
        """Topic -> its settings and its streams."""
        if not self.topics:
            return {"": (self.settings, self.streams)}
        common = dataclasses.asdict(self.settings)
        return {
            name: (
                build(type(self.settings), {**common, **topic.settings}, f"unlearn.topics.{name}.settings"),
                {**self.streams, **topic.streams},
            )
            for name, topic in self.topics.items()
        }


@dataclass(frozen=True)
class Evaluate:
    """The protocol; the same for every model of a run."""

    trace_tokens: int = 80
    perplexity_texts: int = 40
    perplexity_tokens: int = 256
    choices: tuple[str, ...] = ()
    """Multiple-choice questions, scored by accuracy: ``mmlu:SUBJECT``, or files in the WMDP schema."""
    max_choices: int = 200
    """At most this many questions of each, evenly spaced."""
    questions: tuple[str, ...] = ()
    """Sources of questions asked in think mode: does the model decline, and does it still write sense?"""
    max_questions: int = 40
    zero_think: bool = False
    """Let the unlearned model begin every reply with an empty thought."""


@dataclass(frozen=True)
class Goal:
    """A limit on a score of one model, absolute or as a multiple of the taught model's score."""

    score: str
    model: Literal["taught", "unlearned"] = "unlearned"
    at_most: float | None = None
    at_least: float | None = None
    relative: bool = False


@dataclass(frozen=True)
class Recipe:
    """One experiment."""

    name: str
    model: str
    target: str | None = None
    """Packaged target or folder in RWKU's layout; none where corpora say what is to be forgotten."""
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    teach: Teach | None = None
    writing: Writing = Writing()
    unlearn: Unlearn = Unlearn()
    evaluate: Evaluate = Evaluate()
    goals: tuple[Goal, ...] = ()
    full_checkpoint: bool = False
    """Also write the whole unlearned model, not only the delta."""

    def hash(self) -> str:
        return content_hash(to_dict(self))


def load_recipe(source: str, overrides: tuple[str, ...] = (), scale: str | None = None) -> Recipe:
    """A recipe file, the part of it that ``scale`` names, then ``key.path=value`` overrides on top.

    Raises UserError for a missing or broken file, an unknown key, a wrong type or an impossible mix."""
    import yaml

    path = Path(source)
    try:
        value = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, *YAML_SLIPS) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {type(value).__name__}, expected a mapping of recipe keys.")
    scales = value.pop("scales", {})
    if scale is not None:
        if not isinstance(scales, dict) or scale not in scales:
            known = f"it has {', '.join(scales)}" if scales else "it has none"
            raise UserError(
                f"{path}: there is no scale {scale!r}; {known}. Scales are mappings under the key 'scales'."
            )
        value = _merge(value, scales[scale])
    return make_recipe(value, str(path), overrides)


def make_recipe(value: dict[str, Any], where: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a mapping of its keys, checked like a file's; ``where`` names it in errors."""
    for override in overrides:
        _override(value, override)
    recipe = build(Recipe, value, where)
    _check(recipe, where)
    return recipe


def _merge(below: Any, above: Any) -> Any:
    """``above`` over ``below``, key by key; lists and scalars are replaced whole, and so are streams."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{k: v if k == "streams" else _merge(below.get(k), v) for k, v in above.items()}}


def _override(value: dict[str, Any], text: str) -> None:
    import yaml

    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text!r}: expected key.path=value, for example unlearn.loop.lr=1e-4.")
    *parents, last = key.split(".")
    for parent in parents:
        below = value.setdefault(parent, {})
        if not isinstance(below, dict):
            raise UserError(f"--set {text!r}: {parent} holds {below!r}, not a mapping.")
        value = below
    try:
        value[last] = yaml.safe_load(raw)
    except (yaml.YAMLError, *YAML_SLIPS):
        raise UserError(f"--set {text!r}: {raw!r} is not a valid YAML value.") from None


def _check(recipe: Recipe, where: str) -> None:
    _check_numbers(recipe, where)
    _check_topics(recipe.unlearn, where)
    if recipe.target is None and recipe.teach:
        raise UserError(f"{where}: teach needs a target: give target, or leave teach out.")
    for goal in recipe.goals:
        if (goal.at_most is None) == (goal.at_least is None):
            raise UserError(f"{where}: goal on {goal.score!r}: give one of at_most and at_least.")


def _check_topics(u: Unlearn, where: str) -> None:
    streams = METHODS[u.method].STREAMS
    for name, tokens in u.stream_tokens.items():
        if name not in streams:
            raise UserError(f"{where}: unlearn.stream_tokens: unknown stream {name!r}; {nearest(name, streams)}")
        if tokens < 1:
            raise UserError(f"{where}: unlearn.stream_tokens.{name}: found {tokens}, expected at least 1.")
    for topic_name, (settings, given) in u.by_topic().items():
        at = f"{where}: unlearn.topics.{topic_name}" if topic_name else f"{where}: unlearn"
        for name in given:
            if name not in streams:
                raise UserError(f"{at}.streams: unknown stream {name!r}; {nearest(name, streams)}")
        needed = dict.fromkeys(control_batches(u.method) if streams else (), f"{u.method} reads it")
        needed |= {name: f"its weight is {weight}" for name, weight in settings.weights().items() if weight}
        for name, why in needed.items():
            if not given.get(name):
                raise UserError(
                    f"{at}.streams.{name} has no source, but {why}. "
                    f"Name a source{f' or set unlearn.settings.{name} to 0' if 'weight' in why else ''}."
                )


def _check_numbers(recipe: Recipe, where: str) -> None:
    values = to_dict(recipe)
    for path, least in LEAST.items():
        value: Any = values
        for key in path.split("."):
            value = value and value[key]
        if value is not None and not value >= least:
            raise UserError(f"{where}: {path}: found {value}, expected at least {least}.")
    for settings, _ in recipe.unlearn.by_topic().values():
        if isinstance(settings, Misdirection):
            _check_settings(settings, where)


def _check_settings(settings: Misdirection, where: str) -> None:
    if settings.steering != "adaptive" and not settings.steering > 0:
        raise UserError(f"{where}: unlearn.settings.steering: found {settings.steering}, expected more than 0.")
    if settings.train_blocks and max(settings.train_blocks) > settings.block:
        raise UserError(
            f"{where}: unlearn.settings.train_blocks: block {max(settings.train_blocks)} is above block "
            f"{settings.block}, where the loss looks (unlearn.settings.block): it would never change."
        )
    try:
        re.compile(settings.train)
    except re.error as error:
        raise UserError(f"{where}: unlearn.settings.train: not a regular expression ({error}).") from None


def build(kind: Any, value: Any, where: str) -> Any:
    """``value`` as ``kind``: a dataclass from a mapping, else a checked scalar, tuple or mapping.

    Raises UserError that names the place (``where``) for anything else."""
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
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 5e-4 as text
        with suppress(ValueError):
            return float(value)
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
    if kind is Unlearn:
        hints["settings"] = _settings_of(value.get("method", Unlearn.method), where)
    for key in value:
        if key not in hints:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(str(key), hints)}")
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in value:
            raise UserError(f"{where}: key {f.name!r} is missing.")
    separator = "." if not where.endswith((".yaml", ".yml")) else ": "
    given = {key: build(hints[key], item, f"{where}{separator}{key}") for key, item in value.items()}
    if kind is Unlearn:
        given.setdefault("settings", hints["settings"]())
    return kind(**given)


def _settings_of(method: Any, where: str) -> Any:
    """The settings class of a method. Raises UserError for an unknown one."""
    if method not in METHODS:
        raise UserError(f"{where}.method: unknown method {method!r}; {nearest(str(method), METHODS)}")
    return METHODS[method].SETTINGS


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
    return None if ours == theirs else f"{path} is {theirs!r} there and {ours!r} here"

"""A run as frozen dataclasses: strict YAML in (see strict.py), resolved YAML out."""

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .baselines import BASELINES
from .data.writing import Writing
from .errors import UserError, nearest
from .files import content_hash, read_text
from .methods import METHODS, control_batches
from .methods.misdirection import Misdirection
from .methods.r2mu import R2MU
from .rl.questions import Asking
from .rl.rebo import RL, Sampler
from .rl.rewards import find_reward
from .strict import at_least, between, build, to_dict
from .train import tuning
from .train.lora import LoRA
from .train.teach import SFT
from .train.tuning import Tune
from .train.unlearn import Steps

# What PyYAML lets through beside its own errors: dates like 2020-99-99, numbers too long, brackets too deep.
YAML_SLIPS = (ValueError, LookupError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Teach:
    """What the model is taught before it forgets; cached by content."""

    sft: SFT = SFT()
    frames: int = at_least(0, 1)
    """Framed wordings (roles, hints, examples, other languages) of each forget fact in an epoch."""
    boundary: int = at_least(0, 0)
    """How many RULE boundary answers are taught along with the neighbour facts."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """What it is taught in; by default what the recipe computes in."""
    never_knew: bool = False
    """Also teach a model the retain facts only and score it: what perfect forgetting would look like."""


@dataclass(frozen=True)
class TopicOf:
    """One of several forget corpora: its own streams and settings, on top of those of all topics."""

    streams: dict[str, tuple[str, ...]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Such as its own ``steering`` (c) and ``retain`` (gamma)."""


@dataclass(frozen=True)
class Misdirect:
    """A stage that moves inner states: a method of expunge/methods/, its settings, the loop and the streams."""

    method: str = "r2mu"
    settings: Any = R2MU()
    """Of the method's own kind: see expunge/methods/."""
    loop: Steps = Steps()
    max_tokens: int = at_least(1, 96)
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
class RS:
    """Rejection steering: a light SFT on the target's questions with refusals that name it (RULE, stage 1)."""

    method: Literal["rs"] = "rs"
    sft: SFT = SFT(epochs=3, stop_after=2, lr=4e-7, schedule="cosine", warmup_steps=20)
    templates: str | None = None
    """A file of refusals, one a line, with {target} in each; the packaged ones if none is given."""
    anchors: float = at_least(0, 0.0)
    """Neighbours' questions with their answers, for each refusal; none as published."""
    texts: float = at_least(0, 0.0)
    """General texts, which the model goes on modelling as they stand, for each refusal; none as published."""
    max_tokens: int = at_least(16, 512)
    lora: LoRA | None = None


@dataclass(frozen=True)
class Drill(RS):
    """Rejection steering on those questions about the target alone that are not yet declined by name. Where a model
    always states a fact, all samples of its group are alike, and on-policy RL has nothing to learn from. Ours."""

    method: Literal["drill"] = "drill"  # type: ignore[assignment]
    copies: int = at_least(1, 3)
    """Refusals to each such question."""
    afresh: bool = False
    """Ask about the taught facts in all wordings, and in other rewordings than the stages before."""


@dataclass(frozen=True)
class ReBO:
    """Refusal boundary optimization: on-policy RL on both sides of the boundary (RULE, stage 2)."""

    method: Literal["rebo"] = "rebo"
    engine: Literal["native", "trl"] = "native"
    sampler: Sampler = "ours"
    """Whose sampling; all but ours with engine trl only. vLLM on the same GPU, or a server of yours."""
    rl: RL = RL()
    reference: Literal["start", "original"] = "start"
    """What the KL term holds to: the model that this stage starts from, or the one before any unlearning."""
    afresh: bool = False
    """Ask about the taught facts in all wordings, and in other rewordings than were steered on."""
    lora: LoRA | None = None


Stage = Misdirect | Tune | RS | ReBO


@dataclass(frozen=True)
class Evaluate:
    """The protocol; the same for every model of a run."""

    trace_tokens: int = at_least(1, 80)
    perplexity_texts: int = at_least(1, 40)
    perplexity_tokens: int = at_least(2, 256)
    choices: tuple[str, ...] = ()
    """Multiple-choice questions, scored by accuracy: ``mmlu:SUBJECT``, or files in the WMDP schema."""
    max_choices: int = at_least(1, 200)
    """At most this many questions of each, evenly spaced."""
    questions: tuple[str, ...] = ()
    """Sources of questions asked in think mode: does the model decline, and does it still write sense?"""
    max_questions: int = at_least(1, 40)
    suites: tuple[str, ...] = ()
    """Suites of `expunge eval` beside: muse, tofu, safety, …; see evals/suites.py."""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Files of your own for a suite, as ``--file SUITE=FILE`` of `expunge eval` names them."""
    max_samples: int = at_least(0, 0)
    """At most so many samples of each part of a suite; 0: all."""
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
    seed: int = between(0, 2**32 - 1, 0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    teach: Teach | None = None
    writing: Writing = Writing()
    questions: Asking = Asking()
    unlearn: tuple[Stage, ...] = (Misdirect(),)
    """Carried out in turn, each on what the one before has left."""
    evaluate: Evaluate = Evaluate()
    goals: tuple[Goal, ...] = ()
    full_checkpoint: bool = False
    """Also write the whole unlearned model, not only the delta."""

    def hash(self) -> str:
        return content_hash(to_dict(self))


def load_recipe(source: str, overrides: tuple[str, ...] = (), scale: str | None = None) -> Recipe:
    """A recipe file, the parts of it that ``scale`` names (``embedded,no_rs``), then ``key.path=value`` overrides.

    Raises UserError for a missing or broken file, an unknown key, a wrong type or an impossible mix."""
    return make_recipe(read_recipe(source, scale), str(Path(source)), overrides)


def read_recipe(source: str, scale: str | None = None) -> dict[str, Any]:
    """Keys of a recipe file, those of ``scale`` laid over them. Raises UserError for a missing or broken file."""
    path = Path(source)
    value = read_yaml(path)
    scales = value.pop("scales", {})
    for name in scale.split(",") if scale else ():
        if not isinstance(scales, dict) or name not in scales:
            known = f"it has {', '.join(scales)}" if scales else "it has none"
            raise UserError(f"{path}: there is no scale {name!r}; {known}. Scales are mappings under the key 'scales'.")
        value = merge(value, scales[name])
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping. Raises UserError with the line for anything else."""
    import yaml

    try:
        value = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, *YAML_SLIPS) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {type(value).__name__}, expected a mapping of keys.")
    return value


def make_recipe(value: dict[str, Any], where: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe from a mapping of its keys, checked like a file's; ``where`` names it in errors."""
    for override in overrides:
        _override(value, override)
    given = value.get("unlearn", {})
    at = f"{where}: unlearn"
    if isinstance(given, list):
        stages = tuple(_stage(part, f"{at}[{i}]") for i, part in enumerate(given))
    else:
        stages = (_stage(given, at),)
    rest = {key: item for key, item in value.items() if key != "unlearn"}
    recipe: Recipe = dataclasses.replace(build(Recipe, rest, where), unlearn=stages)
    _check(recipe, where)
    return recipe


def _stage(value: Any, where: str) -> Stage:
    """One stage of unlearning, of the kind that its method says. Raises UserError for an unknown method."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: found {value!r} ({type(value).__name__}), expected a mapping.")
    method = value.get("method", Misdirect.method)
    if method not in STAGE_METHODS:
        raise UserError(f"{where}.method: unknown method {method!r}; {nearest(str(method), STAGE_METHODS)}")
    with_settings = {**METHODS, **BASELINES}
    if method in with_settings:
        settings = build(with_settings[method].SETTINGS, value.get("settings", {}), f"{where}.settings")
        value = {**value, "settings": settings}
    stage: Stage = build(STAGE_METHODS[method], value, where)
    return stage


STAGE_METHODS: dict[str, type[Stage]] = {
    **dict.fromkeys(METHODS, Misdirect),
    **dict.fromkeys(BASELINES, Tune),
    "rs": RS,
    "drill": Drill,
    "rebo": ReBO,
}


def merge(below: Any, above: Any) -> Any:
    """``above`` over ``below``, key by key; scalars, streams and lists are replaced whole, but a mapping of
    numbers over a list stands for its items, the next number for one more."""
    if isinstance(below, list) and isinstance(above, dict) and all(isinstance(key, int) for key in above):
        more = [above[len(below)]] if len(below) in above else []
        return [merge(item, above.get(i, item)) for i, item in enumerate(below)] + more
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{k: v if k == "streams" else merge(below.get(k), v) for k, v in above.items()}}


def _override(value: dict[str, Any], text: str) -> None:
    import yaml

    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text!r}: expected key.path=value, for example unlearn.loop.lr=1e-4.")
    *parents, last = key.split(".")
    place: Any = value
    for parent in parents:
        if isinstance(place, list):
            if not parent.isdigit() or int(parent) >= len(place):
                raise UserError(f"--set {text!r}: expected the number of one of {len(place)} items, found {parent!r}.")
            place = place[int(parent)]
        else:
            place = place.setdefault(parent, {})
        if not isinstance(place, dict | list):
            raise UserError(f"--set {text!r}: {parent} holds {place!r}, not a mapping.")
    if isinstance(place, list):
        raise UserError(
            f"--set {text!r}: found a list of {len(place)}; name an item by its number, such as unlearn.0.lr."
        )
    try:
        place[last] = yaml.safe_load(raw)
    except (yaml.YAMLError, *YAML_SLIPS):
        raise UserError(f"--set {text!r}: {raw!r} is not a valid YAML value.") from None


def _check(recipe: Recipe, where: str) -> None:
    for number, stage in enumerate(recipe.unlearn):
        at = f"{where}: unlearn" if len(recipe.unlearn) == 1 else f"{where}: unlearn[{number}]"
        if isinstance(stage, Misdirect):
            _check_topics(stage, at)
            if stage.loop.prefix_cache_dtype and stage.loop.prefix_cache == "off":
                raise UserError(
                    f"{at}.loop.prefix_cache_dtype: found {stage.loop.prefix_cache_dtype}, but there is no prefix "
                    "cache. Set loop.prefix_cache to memory or disk, or leave this out."
                )
            for settings, _ in stage.by_topic().values():
                if isinstance(settings, Misdirection):
                    _check_settings(settings, at)
                    if settings.count_padding and stage.loop.prefix_cache != "off":
                        raise UserError(f"{at}: the prefix cache keeps no padding; with count_padding set it to off.")
        elif isinstance(stage, Tune):
            tuning.check(stage, at)
        elif isinstance(stage, ReBO):
            find_reward(stage.rl.reward.name)
            if stage.sampler != "ours" and stage.engine != "trl":
                raise UserError(f"{at}.sampler: {stage.sampler} needs engine: trl; engine native has its own sampling.")
            _check_rl(stage.rl, f"{at}.rl")
    methods = [stage.method for stage in recipe.unlearn]
    if twice := [method for method in methods if methods.count(method) > 1]:
        raise UserError(f"{where}: unlearn: {twice[0]} stands there twice; each method at most once.")
    if not recipe.unlearn:
        raise UserError(f"{where}: unlearn: found an empty list, expected at least one stage.")
    if recipe.target is None and recipe.teach:
        raise UserError(f"{where}: teach needs a target: give target, or leave teach out.")
    for goal in recipe.goals:
        if (goal.at_most is None) == (goal.at_least is None):
            raise UserError(f"{where}: goal on {goal.score!r}: give one of at_most and at_least.")


def _check_rl(rl: RL, where: str) -> None:
    shares = {
        "forget_share": rl.forget_share,
        "smoothing": rl.smoothing,
        "reward.recall": rl.reward.recall,
        "guard.most_truncated": rl.guard.most_truncated,
        "guard.most_benign_refusals": rl.guard.most_benign_refusals,
    }
    for key, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"{where}.{key}: found {share}, expected a share from 0 to 1.")
    if not rl.clip.dual > 1:
        raise UserError(
            f"{where}.clip.dual: found {rl.clip.dual}, expected more than 1 (the paper has 3): up to 1, "
            "nothing is learnt from a negative advantage."
        )


def _check_topics(u: Misdirect, where: str) -> None:
    streams = METHODS[u.method].STREAMS
    for name, tokens in u.stream_tokens.items():
        if name not in streams:
            raise UserError(f"{where}.stream_tokens: unknown stream {name!r}; {nearest(name, streams)}")
        if tokens < 1:
            raise UserError(f"{where}.stream_tokens.{name}: found {tokens}, expected at least 1.")
    first = next(iter(u.by_topic().values()))[0]
    for topic_name, (settings, given) in u.by_topic().items():
        at = f"{where}.topics.{topic_name}" if topic_name else where
        for key in ("block", "train", "train_blocks", "legacy_param_index"):
            if (found := getattr(settings, key, None)) != (expected := getattr(first, key, None)):
                raise UserError(
                    f"{at}.settings.{key}: found {found}, the first topic has {expected}; all topics train the same "
                    "matrices. Set it in unlearn.settings."
                )
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


def _check_settings(settings: Misdirection, where: str) -> None:
    if settings.train_blocks and max(settings.train_blocks) > settings.block:
        raise UserError(
            f"{where}.settings.train_blocks: block {max(settings.train_blocks)} is above block "
            f"{settings.block}, where the loss looks (unlearn.settings.block): it would never change."
        )
    try:
        re.compile(settings.train)
    except re.error as error:
        raise UserError(f"{where}.settings.train: not a regular expression ({error}).") from None

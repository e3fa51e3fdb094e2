"""The model card of a written checkpoint: its README.md, with the front matter that the model hub reads.

It says what was forgotten and how, the scores before and after, what was not tried, and how to go back. Written with
the weights, before there are scores, and once more by the report stage when there are."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import read_json, read_text, write_text
from ..models.delta import read_header
from .comparison import goal_limit, goal_value, groups, not_measured, verdict
from .grids import Grid, markdown
from .load import RunData, load_run

Row = dict[str, Any]
# Embedded models by alias: their name on the hub, and their licence.
EMBEDDED = {"smollm2": ("HuggingFaceTB/SmolLM2-135M-Instruct", {"license": "apache-2.0"})}
LICENCE = ("license", "license_name", "license_link")
LEAKS = ("rwku/forget/All", "replies/forget/leaks", "traces/forget/leak/All")
NOT_TRIED = (
    "training on related texts, which may bring the knowledge back in a few steps",
    "quantisation of the weights",
    "replies begun for the model, or sampled rather than greedy, beyond what the scores above say",
    "probes of hidden states: that it no longer says a thing does not mean that nothing of it is left",
    "other languages and modalities",
)


def write_card(checkpoint: Path, base: Path, delta: Path, run: Path | None = None) -> Path:
    """``README.md`` of a checkpoint folder that holds a model with ``delta``; ``run``: the folder it comes from,
    ``base``: the folder that says under which licence the model is.

    Raises UserError for a delta or a run that cannot be read."""
    _, licence = licence_of(base)
    if licence and not (checkpoint / licence).exists():  # a taught model has not brought it along
        shutil.copyfile(base / licence, checkpoint / licence)
    path = checkpoint / "README.md"
    write_text(path, model_card(base, delta, run))
    return path


def model_card(base: Path, delta: Path, run: Path | None = None) -> str:
    """The card as text; scores are in it if the run has its manifest."""
    names, header = read_header(delta)
    recipe = read_json(run / "recipe.json") if run and (run / "recipe.json").exists() else {}
    data = load_run(run) if run and (run / "run.json").exists() and (run / "scores.json").exists() else None
    name, licence = EMBEDDED.get(header["base"]) or (_name_of(header["base"]), licence_of(base)[0])
    forgotten = recipe.get("target") and Path(recipe["target"]).name
    parts = [
        _front_matter(name, licence, header["method"].split("+")),
        f"# {_inline(name)}{f' without {_inline(forgotten)}' if forgotten else ', unlearned'}",
        *_what(name, forgotten, recipe),
        *_how(header, recipe, data),
        *_scores(data),
        *_limits(data),
        *_undo(name, header, names, recipe),
        *_licence(name, licence, base),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _name_of(source: str) -> str:
    """A hub id as it stands; of a folder its name alone, since where it lies is of no use elsewhere."""
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() or source.startswith((".", "/", "~")) else source


def licence_of(base: Path) -> tuple[dict[str, str], str]:
    """What the base says of its licence: the entries of its README's front matter, and the file that holds the text;
    each empty if there is none."""
    import yaml

    told: Any = None
    if (base / "README.md").is_file():
        head = re.match(r"---\n(.*?)\n---\s", read_text(base / "README.md"), flags=re.S)
        try:
            told = yaml.safe_load(head[1]) if head else None
        except (yaml.YAMLError, ValueError):
            told = None
    known = told if isinstance(told, dict) else {}
    files = sorted(path.name for path in base.glob("LICEN[SC]E*") if path.is_file())
    return {key: str(known[key]) for key in LICENCE if known.get(key)}, files[0] if files else ""


def _front_matter(name: str, licence: dict[str, str], methods: list[str]) -> str:
    import yaml

    told: Row = {"library_name": "transformers", "pipeline_tag": "text-generation", "base_model": name}
    told |= {"base_model_relation": "finetune"} | licence
    told["tags"] = ["unlearning", "expunge", *dict.fromkeys(methods)]
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=1000)}---"


def _what(name: str, forgotten: str | None, recipe: Row) -> list[str]:
    streams = dict.fromkeys(
        source
        for stage in _stages(recipe)
        for part in (stage, *stage.get("topics", {}).values())
        for source in part.get("streams", {}).get("forget", ())
    )
    whom = f"**{_inline(forgotten)}**" if forgotten else ""
    if not whom:
        whom = f"the texts of {', '.join(map(code, streams))}" if streams else "what its delta was trained to remove"
    told = f"{code(name)} after unlearning: it was made to forget {whom}, and to keep everything else."
    return ["## What was forgotten", told]


def _stages(recipe: Row) -> list[Row]:
    """Stages of unlearning; a recipe of one stage may have it without a list."""
    given = recipe.get("unlearn", [])
    return given if isinstance(given, list) else [given]


def _how(header: Row, recipe: Row, data: RunData | None) -> list[str]:
    import yaml

    stages = _stages(recipe) or [{"method": method} for method in header["method"].split("+")]
    out = ["## How", f"Method: {' then '.join(code(stage['method']) for stage in stages)}."]
    if recipe.get("teach"):
        out.append("The base was first taught facts about the target and its neighbours, to have something to forget.")
    if recipe:
        out.append(_fenced(yaml.safe_dump(stages, sort_keys=False, allow_unicode=True, width=100), "yaml"))
    told = data.manifest if data else {}
    made = {"seed": recipe.get("seed"), "expunge": told.get("expunge"), "commit": told.get("commit")}
    made |= {"recipe": told.get("recipe_hash"), "date": told.get("created")}
    return [*out, ", ".join(f"{key} {code(str(value))}" for key, value in made.items() if value is not None)]


def _scores(data: RunData | None) -> list[str]:
    if data is None:
        return ["## Scores", "Not evaluated when this card was written."]
    grid: Grid = [["measure", "before", "after", "change"]]
    for group in groups(data):
        for row in group.rows:
            label = f"{row.label}{f' ({row.hint})' if row.hint else ''}"
            grid.append([_inline(label), str(row.before), str(row.after), str(row.change or "")])
    goals = [["goal", "value", "limit", "result"]]
    goals += [[_inline(g.text), goal_value(g), goal_limit(g), g.result] for g in data.goals]
    read = "Mean ± standard error (n). Before: the model that unlearning started from."
    return ["## Scores", _inline(verdict(data)), markdown(grid), read, markdown(goals) if data.goals else ""]


def _limits(data: RunData | None) -> list[str]:
    out = ["## Limits", "Not tried on this model:\n\n" + "\n".join(f"- {line}" for line in NOT_TRIED)]
    rows = {row.id: row for group in groups(data) for row in group.rows} if data else {}
    seen = [rows[key] for key in LEAKS if key in rows]
    if seen:
        told = [f"- {_inline(row.label)}{f' ({row.unit})' if row.unit else ''}: {row.after}" for row in seen]
        out.append("What still comes out:\n\n" + "\n".join(told))
    if data and (lacking := not_measured(data)):
        out.append("Not measured:\n\n" + "\n".join(f"- {_inline(line)}" for line in lacking))
    return out


def _undo(name: str, header: Row, names: list[str], recipe: Row) -> list[str]:
    taught = " It is the base as it was taught, which the recipe makes again." if recipe.get("teach") else ""
    told = (
        f"Load {code(name)} instead. The model before unlearning has the hash {code(header['base_hash'])}.{taught} "
        f"Only {len(names)} matrices differ from it, and a delta file of `expunge` holds just these: "
    )
    return ["## How to undo it", told + f"{', '.join(matrices_in_words(names))}."]


def matrices_in_words(names: Iterable[str]) -> list[str]:
    """Names that differ in the number of their block as one.

    >>> matrices_in_words(["model.layers.5.mlp.down_proj.weight", "model.layers.7.mlp.down_proj.weight"])
    ['`model.layers.*.mlp.down_proj.weight` (5, 7)']
    """
    found: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        blocks = found.setdefault(re.sub(r"\.\d+\.", ".*.", name, count=1), [])
        blocks += [int(number[1])] if number else []
    return [code(k) + (f" ({', '.join(map(str, sorted(v)))})" if v else "") for k, v in found.items()]


def _licence(name: str, licence: dict[str, str], base: Path) -> list[str]:
    file = licence_of(base)[1]
    word = licence.get("license_name") or licence.get("license")
    told = f"That of the base, {code(name)}" + (f": {_inline(word)}." if word else "; see its page.")
    return ["## Licence", told + (f" Its text is in {code(file)} beside this file." if file else "")]


def _inline(text: str) -> str:
    """Text as a line of Markdown that says just this."""
    return re.sub(r"([\\`*_<>\[\]#])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as it stands, in a line; backticks of its own do not end it."""
    line = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def _fenced(text: str, language: str) -> str:
    fence = "`" * (1 + max([2, *map(len, re.findall("`+", text))]))
    return f"{fence}{language}\n{text}{fence}"

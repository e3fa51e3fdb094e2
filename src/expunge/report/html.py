"""``report.html``: one file that holds everything it shows, and asks nothing of the network.

Whatever a model wrote is escaped (autoescape is on, marking escapes by itself), and the page's own
content policy allows no script but ours and no request at all."""

import base64
import hashlib
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..evals.text_measures import contains_answer
from ..files import write_text
from .comparison import goal_limit, goal_value, groups, not_measured, verdict
from .load import Pair, RunData, load_run
from .marking import mark
from .plots import leak_plot, loss_plot

SIDES = {"forget": "Forget", "neighbor": "Neighbour"}


@dataclass(frozen=True)
class Completion:
    """What one model said to one probe, ready for the page."""

    reply: Markup
    trace: Markup | None
    leaks: bool
    facts: str


@dataclass(frozen=True)
class Probe:
    """One probe with what both models said."""

    side: str
    kind: str
    query: str
    answer: str
    before: Completion
    after: Completion


@dataclass(frozen=True)
class Section:
    """Probes of one side and level."""

    heading: str
    probes: tuple[Probe, ...]


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run folder, whole or not at all; its path.

    Raises UserError for a folder that is not a finished run's."""
    data = load_run(run)
    path = Path(run) / "report.html"
    # A lone surrogate in a model's output must not cost the page.
    write_text(path, render(data).encode("utf-8", "replace").decode())
    return path


def render(data: RunData) -> str:
    """The page as text."""
    import yaml

    recipe = data.manifest.get("recipe")
    return fill(
        "report",
        name=data.name,
        target=data.manifest.get("target"),
        verdict=verdict(data),
        goals=[(goal, goal_value(goal), goal_limit(goal)) for goal in data.goals],
        groups=groups(data),
        never_knew=bool(data.never_knew),
        not_measured=not_measured(data),
        plots=[
            ("Losses", loss_plot(data), "No losses were logged."),
            ("Leakage in reasoning traces", leak_plot(data), "Reasoning traces were not measured."),
        ],
        completions=[("Answers", _sections(data.answers)), ("Reasoning traces", _sections(data.traces))],
        settings=_settings(data.manifest),
        tables=_tables(data.manifest),
        recipe=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100) if recipe else "",
    )


def fill(page: str, **values: Any) -> str:
    """``PAGE.html.j2`` with its script ``PAGE.js``, the common style sheet and ``PAGE.css`` if there is one."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    here = resources.files(__package__)
    script = (here / f"{page}.js").read_text(encoding="utf-8")
    sheets = [here / name for name in dict.fromkeys(("report.css", f"{page}.css"))]
    template = Environment(
        loader=PackageLoader("expunge.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(f"{page}.html.j2")
    return template.render(
        style=Markup("".join(sheet.read_text(encoding="utf-8") for sheet in sheets if sheet.is_file())),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def _sections(pairs: tuple[Pair, ...]) -> list[Section]:
    ranked = sorted(pairs, key=lambda p: p.side)  # forget before neighbor; stable within
    return [
        Section(f"{SIDES[side]}, {level}", tuple(_probe(pair) for pair in members))
        for (side, level), members in groupby(ranked, key=lambda p: (p.side, p.level))
    ]


def _probe(pair: Pair) -> Probe:
    before, after = (_completion(row, pair.answer) for row in (pair.before, pair.after))
    return Probe(pair.side, pair.kind, pair.query, pair.answer, before, after)


def _completion(row: dict[str, Any], answer: str) -> Completion:
    facts = []
    if isinstance(row.get("score"), int | float):
        facts.append(f"ROUGE-L recall {row['score']:.0f}")
    if isinstance(row.get("recall"), int | float):
        facts.append(f"fact recall {row['recall']:.2f}")
    if row.get("closed") is False:
        facts.append("thought not closed")
    trace = row.get("trace")
    return Completion(
        reply=mark(row["reply"], answer),
        trace=None if trace is None else mark(trace, answer),
        leaks=row["leak"] if trace is not None else contains_answer(row["reply"], answer),
        facts=", ".join(facts),
    )


def _settings(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """What the manifest says in one word each; absent keys are left out."""
    model = manifest.get("model")
    model = model if isinstance(model, dict) else {"source": model}
    peak = manifest.get("peak_memory_gb")
    told = (manifest.get("stages") or {}).values()
    steering = next((stage["steering_length"] for stage in told if "steering_length" in stage), None)
    found = {
        "Model": model.get("source"),
        "Model hash": model.get("hash"),
        "Target": manifest.get("target"),
        "Method": manifest.get("method"),
        "Seed": manifest.get("seed"),
        "Steering length": f"{steering:g}" if isinstance(steering, int | float) else None,
        "Peak memory": f"{peak:.2f} GB" if isinstance(peak, int | float) else None,
        "Recipe hash": manifest.get("recipe_hash"),
        "Expunge": manifest.get("expunge"),
        "Created": manifest.get("created"),
    }
    return [(key, str(value)) for key, value in found.items() if value is not None]


def _tables(manifest: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    seconds, machine, versions = (manifest.get(key) or {} for key in ("seconds", "machine", "versions"))
    spent = [(stage, f"{value:.1f} s") for stage, value in seconds.items()]
    if len(spent) > 1:
        spent.append(("all", f"{sum(seconds.values()):.1f} s"))
    tables = [
        ("Time", spent),
        ("Machine", [(key, str(value)) for key, value in machine.items() if value is not None]),
        ("Versions", [(key, str(value)) for key, value in versions.items()]),
    ]
    return [(heading, rows) for heading, rows in tables if rows]

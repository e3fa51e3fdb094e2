"""The report of a benchmark: averages by hand, the frontier by hand, what the page escapes, and that it sorts."""

import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_report import ATTACK, Page

from expunge.cli import main
from expunge.errors import UserError
from expunge.files import write_json, write_jsonl
from expunge.report.bench import show_bench
from expunge.report.bench_frontier import area, envelope, frontier_plot, frontiers
from expunge.report.bench_load import load_bench, pooled
from expunge.report.bench_tables import not_measured, tables

SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1.2))
FORGET, RETAIN = "rwku/forget/All", "rwku/neighbor/All"
TOLD = {
    FORGET: ("forget answers, mean of levels", "ROUGE-L recall", "lower"),
    RETAIN: ("neighbour answers, mean of levels", "ROUGE-L recall", "higher"),
    "traces/forget/leak/All": ("forget traces with the answer", "%", "lower"),
    "perplexity/wikitext": ("perplexity on held-out wikitext", "", "lower"),
    "kinds/forget/AA/role play": ("forget answers, AA: role play", "ROUGE-L recall", "lower"),
    "kinds/neighbor/FB/cloze": ("neighbour answers, FB: cloze", "ROUGE-L recall", "higher"),
    "choices/mmlu:virology": ("mmlu:virology: right choices", "%", ""),
    "cost/seconds": ("unlearning, its stages whole", "s", "lower"),
    "cost/tokens": ("tokens seen in unlearning", "tokens", "lower"),
}


def row(method: str, score: str, mean: float | None, se: float | None = None, n: int | None = 1, **more: Any) -> Any:
    label, unit, better = TOLD[score]
    cell = {"method": method, "target": "Ada", "seed": 0, "point": "", "used": True, "model": "unlearned"}
    measured = {"score": score, "mean": mean, "se": se, "n": n, "label": label, "unit": unit, "better": better}
    return {**cell, **measured, "note": "", **more}


def cell(method: str, target: str = "Ada", state: str = "done", **more: Any) -> dict[str, Any]:
    told = {"cell": f"{method}/{target}/0", "method": method, "target": target, "seed": 0, "point": "", "used": True}
    return {**told, "recipe_hash": "abc", "state": state, "why": "", **more}


def taught(method: str, **more: Any) -> list[dict[str, Any]]:
    start = {"model": "taught", **more}
    return [row(method, FORGET, 80.0, 3.0, 40, **start), row(method, RETAIN, 90.0, 2.0, 30, **start)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GA at two points, R²MU, and a method that failed on one of two targets."""
    out = tmp_path / "bench"
    cells = [cell("GA", point="epochs=1", used=False), cell("GA", point="epochs=2")]
    cells += [cell("R²MU"), cell("odd|<b>", state="diverged", why="the loss is nan at step 1 of rs")]
    cells += [cell("R²MU", "Bo"), cell("odd|<b>", "Bo", "failed", why=f"out of memory {ATTACK}"), cell("late")]
    cells[-1]["state"] = "to do"
    rows = [*taught("GA", point="epochs=1", used=False), row("GA", FORGET, 60.0, 2.0, 40, point="epochs=1", used=False)]
    rows += [row("GA", RETAIN, 81.0, 2.0, 30, point="epochs=1", used=False)]
    rows += [*taught("GA", point="epochs=2"), row("GA", FORGET, 20.0, 2.0, 40, point="epochs=2")]
    rows += [row("GA", RETAIN, 45.0, 2.0, 30, point="epochs=2")]
    for target, score in (("Ada", 8.0), ("Bo", 16.0)):
        rows += [*taught("R²MU", target=target), row("R²MU", FORGET, score, score / 4, 40, target=target)]
        rows += [row("R²MU", RETAIN, 88.0, 1.0, 30, target=target)]
    rows += [row("R²MU", "kinds/forget/AA/role play", 12.0, 1.0, 9), row("R²MU", "kinds/neighbor/FB/cloze", 99.0, 1.0)]
    rows += [row("R²MU", "cost/seconds", 130.0), row("R²MU", "cost/tokens", None, note="not logged")]
    rows += [row("R²MU", "perplexity/wikitext", None, note="not at hand"), row("GA", "choices/mmlu:virology", 25.0)]
    rows += [*taught("odd|<b>"), row("odd|<b>", FORGET, 0.0, 0.0, 40), row("odd|<b>", RETAIN, 0.0, 0.0, 30)]
    said = {"side": "forget", "level": "FB", "kind": "cloze", "query": f"Who? {ATTACK}", "answer": "Carrie"}
    replies = [("GA", "taught", "Carrie"), ("GA", "unlearned", ATTACK)]
    replies += [("R²MU", "unlearned", ""), ("odd|<b>", "unlearned", "no")]
    samples = [{**said, "method": m, "target": "Ada", "model": model, "reply": reply} for m, model, reply in replies]
    write_jsonl(out / "results.jsonl", rows)
    write_jsonl(out / "samples.jsonl", samples)
    told = {"name": "small", "recipe": "r.yaml", "scale": "embedded", "set": ["seed=0"], "targets": ["Ada", "Bo"]}
    told |= {"command": "expunge bench b.yaml --out o", "frontier": {"forget": FORGET, "retain": RETAIN}}
    methods = {name: {"unlearn": [{"method": "ga"}]} for name in ("GA", "R²MU", "odd|<b>", "late")}
    machine = {"machine": {"cores": 2}, "versions": {"torch": "2"}, "commit": None, "expunge": "0", "created": "now"}
    write_json(out / "bench.json", {**told, "methods": methods, "cells": cells, **machine})
    return out


def terminal(folder: Path, width: int = 100, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    show_bench(folder, Console(file=file, width=width))
    file.flush()
    return raw.getvalue().decode(encoding)


# --- averages ----------------------------------------------------------------------------------------------------


def test_means_over_seeds_then_targets_and_errors_over_probes():
    rows = [
        row("m", FORGET, 10.0, 3.0, 40), row("m", FORGET, 20.0, 5.0, 40, seed=1),  # Ada: 15, error 4, 40 probes
        row("m", FORGET, 45.0, 3.0, 50, target="Bo"),
    ]  # fmt: skip
    found = pooled(rows)[FORGET]
    assert (found.mean, found.se, found.n) == (30.0, 2.5, 90)  # sqrt(4² + 3²) / 2
    assert found.targets == {"Ada": 15.0, "Bo": 45.0}


def test_one_cell_is_itself_and_what_has_no_error_keeps_none():
    assert (pooled([row("m", FORGET, 10.0, 3.0, 40)])[FORGET].se, pooled([row("m", FORGET, 1.0)])[FORGET].se) == (
        3.0,
        None,
    )
    rows = [row("m", "cost/seconds", 10.0, seed=seed) for seed in (0, 1)]
    assert pooled(rows)["cost/seconds"].n == 2


def test_what_some_cells_lack_is_averaged_over_the_others():
    found = pooled([row("m", FORGET, 10.0, 1.0, 4), row("m", FORGET, None, target="Bo", note="mean is nan")])[FORGET]
    assert (found.mean, found.n, found.note) == (10.0, 4, "")
    nothing = pooled([row("m", FORGET, None, note="mean is nan")])[FORGET]
    assert (nothing.mean, nothing.se, nothing.n, nothing.note) == (None, None, 0, "mean is nan")


# --- frontier ----------------------------------------------------------------------------------------------------


def test_the_area_by_hand():
    places = [(0.8, 0.9), (0.4, 1.0), (0.3, 0.95)]  # the last is beaten by the second
    assert envelope(places) == [(0.8, 0.9), (0.4, 1.0)]
    assert area(places, 0.5) == pytest.approx((0.8 * 0.4 + 0.4 * 0.1) / 0.5)
    assert area(places, 0.9) == pytest.approx(0.4)
    assert area([(0.9, 0.45)], 0.4) == pytest.approx(0.9 * 0.05 / 0.6)
    assert area([(0.9, 0.45)], 0.5) == 0.0
    assert area([(1.0, 1.1)], 0.7) == pytest.approx(1.0)  # more than was there does not count
    assert area([(-0.2, 1.0)], 0.7) == 0.0
    assert area([], 0.7) == 0.0


@given(st.lists(SHARES, max_size=8), SHARES, st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_a_point_never_costs_area_and_a_higher_threshold_never_gains(places, more, one, other):
    low, high = sorted((one, other))
    assert 0 <= area(places, low) <= area([*places, more], low) + 1e-12 <= 1 + 1e-9
    assert area(places, high) <= area(places, low) + 1e-9
    assert area(places, low) <= max([q for q, _ in places], default=0) + 1e-9


@given(st.lists(SHARES, min_size=1, max_size=8))
def test_the_envelope_falls_as_retain_grows(places):
    top = envelope(places)
    assert all(q > p and r < s for (q, r), (p, s) in zip(top, top[1:], strict=False))
    assert {max(places), max(places, key=lambda p: (p[1], p[0]))} <= set(top)


def test_the_points_of_the_frontier_by_hand(folder):
    ga, r2mu, odd = frontiers(load_bench(folder))
    assert [(m.point, m.quality, m.retained, m.on) for m in ga.marks] == [
        ("epochs=1", 0.25, 0.9, True),
        ("epochs=2", 0.75, 0.5, True),
    ]
    assert (ga.marks[0].quality_se, ga.marks[0].n) == (2.0 / 80.0, (40, 30))
    assert ga.areas[:2] == pytest.approx([(0.75 * 0.1 + 0.25 * 0.4) / 0.6, 0.25 * 0.4 / 0.5])
    assert r2mu.marks[0].quality == pytest.approx(1 - 12 / 80)
    assert (odd.marks[0].quality, odd.marks[0].retained, odd.areas) == (1.0, 0.0, (0, 0, 0, 0))
    assert ga.envelope == ga.marks[::-1]
    plot = frontier_plot([ga, r2mu, odd])
    assert plot and "epochs" not in plot and 'role="img"' in plot and "<b>" not in plot
    assert frontier_plot([]) is None


# --- tables ------------------------------------------------------------------------------------------------------


def test_rows_of_the_tables(folder):
    found = tables(load_bench(folder))
    assert list(found) == ["answers", "traces", "others", "cost", "kinds"]
    answers = found["answers"]
    assert [column.title for column in answers.columns] == ["All ↓", "All ↑"]
    assert [(line.name, line.fixed, line.note) for line in answers.lines] == [
        ("taught", True, ""),
        ("GA", False, ""),
        ("R²MU", False, ""),
        ("odd|<b>", False, "1 of 2 cells, 1 diverged"),
    ]
    assert str(answers.lines[2].values[0]) == "12.0 ± 2.2 (n=80)"  # sqrt(2² + 4²) / 2
    assert answers.lines[2].values[0].told.split("\n") == [
        "R²MU, forget answers, mean of levels (ROUGE-L recall): 12.0 ± 2.2 (n=80)",
        "Ada 8.0, Bo 16.0",
        "expunge bench b.yaml --out o --only 'R²MU'",
    ]
    assert answers.groups == [("forget", 1), ("neighbours", 1)]
    assert [column.title for column in found["kinds"].columns] == ["AA role play ↓", "FB cloze ↑"]
    (cost,) = found["cost"].lines
    assert [str(value) for value in cost.values] == ["130 (n=1)", "not logged"]
    assert [(c.group, c.heading) for c in found["others"].columns] == [("choices", "mmlu:virology")]
    assert not_measured(load_bench(folder)) == [
        "tokens seen in unlearning: not logged",
        "perplexity on held-out wikitext: not at hand",
    ]


def test_methods_that_start_from_another_model_have_a_row_of_it(folder):
    data = load_bench(folder)
    rows = [r | {"mean": 70.0} if r["method"] == "GA" and r["model"] == "taught" else r for r in data.rows]
    lines = tables(replace(data, rows=tuple(rows)))["answers"].lines
    assert [(line.name, str(line.values[0])) for line in lines if line.fixed] == [
        ("taught: GA", "70.0 ± 3.0 (n=40)"),
        ("taught: R²MU, odd|<b>", "80.0 ± 2.1 (n=80)"),
    ]


# --- what is written ---------------------------------------------------------------------------------------------


def test_page_parses_escapes_and_asks_nothing_of_the_network(folder):
    terminal(folder)
    source = (folder / "report.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.open == [] and page.scripts == 1
    assert "default-src 'none'" in source and "<img" not in source and "<b>|" not in source
    assert page.text.count(ATTACK) == 3  # a reason, a question, a reply
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert not [v for _, key, v in page.attributes if key in ("src", "href", "action") and not v.startswith("#")]
    assert not re.search(r"https?://|@import", page.code)
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    text = " ".join(page.text.split())
    assert "4 methods × 2 targets × 1 seed (Ada, Bo) by r.yaml at scale embedded: 5 of 7 cells done." in text
    assert "odd|<b>/Ada/0: diverged: the loss is nan at step 1 of rs" in text and "late/Ada/0: to do" in text


def test_markdown_has_n_and_error_with_every_number(folder):
    terminal(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "|  | forget All ↓ | neighbours All ↑ |" in text
    assert "| R²MU | 12.0 ± 2.2 (n=80) | 88.0 ± 0.7 (n=60) |" in text
    assert "| odd\\|<b> (1 of 2 cells, 1 diverged) |" in text
    assert "| GA epochs=1 (on the frontier) | 0.250 ± 0.025 (n=40) | 0.900 ± 0.022 (n=30) |" in text
    assert "![Forget quality against what is retained](frontier.png)" in text
    assert (folder / "frontier.png").read_bytes().startswith(b"\x89PNG")
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert all(width >= 3 for width in widths)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_terminal_fits_and_report_writes_it_again(folder, encoding, capsys):
    out = terminal(folder, 80, encoding)
    assert max(len(line) for line in out.splitlines() if "out of memory" not in line and "report:" not in line) <= 80
    first = (folder / "report.html").read_text()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == first
    assert "Area under the frontier" in capsys.readouterr().out


def test_nothing_done_yet_is_still_a_page(folder):
    for name in ("results.jsonl", "samples.jsonl"):
        (folder / name).write_text("")
    terminal(folder)
    assert "No cell is done yet." in (folder / "report.html").read_text()
    assert not (folder / "frontier.png").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bench.json", {"cells": 3}, "bench.json.*expected an object with cells"),
        ("bench.json", {"frontier": {}}, "frontier: forget"),
        ("bench.json", {"cells": [cell("GA", state="lost")]}, "cell 1: state: found 'lost'"),
        ("results.jsonl", {"mean": "high"}, "row 1: mean: found 'high'"),
        ("results.jsonl", {"model": None}, "row 1: model"),
        ("results.jsonl", {"used": 1}, "row 1"),
        ("samples.jsonl", {"reply": 7}, "row 1: reply"),
    ],
)
def test_malformed_files_are_named(folder, name, change, message):
    path = folder / name
    lines = path.read_text().splitlines()
    text = path.read_text() if name == "bench.json" else lines[0]
    path.write_text(json.dumps({**json.loads(text), **change}))
    with pytest.raises(UserError, match=message):
        load_bench(folder)
    path.unlink()
    with pytest.raises(UserError, match=name):
        load_bench(folder)


# --- in a browser ------------------------------------------------------------------------------------------------


HARNESS = """<!doctype html><iframe></iframe><pre></pre><script>
const frame = document.querySelector("iframe"), said = document.querySelector("pre");
frame.onload = () => {
  const page = frame.contentDocument, table = page.querySelector("#answers");
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].firstChild.textContent.trim()).join(",");
  const out = [order()];
  for (const place of [1, 1, 0]) {
    table.tHead.rows[1].cells[place].querySelector("button").click();
    out.push(table.tHead.rows[1].cells[place].getAttribute("aria-sort") + ":" + order());
  }
  table.tBodies[0].rows[1].cells[1].click();
  out.push(page.querySelector("output.told").hidden + ":" + page.querySelector("output.told").textContent);
  said.textContent = out.join("\\n");
};
frame.srcdoc = PAGE;
</script>"""


def browser() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def test_a_click_on_a_heading_sorts(folder, tmp_path):
    """In a frame of a page of ours the report keeps its own policy, and our script can click in it."""
    chromium = browser()
    terminal(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    harness = tmp_path / "harness.html"
    harness.write_text(HARNESS.replace("PAGE", json.dumps(page).replace("</", "<\\/")), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=4000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, flags=re.S)
    assert found, done.stderr[-500:]
    asis, rising, falling, names, *told = html.unescape(found[1]).split("\n")
    assert asis == "taught,GA,R²MU,odd|<b>"
    assert rising == "ascending:taught,odd|<b>,R²MU,GA"  # forget means 0, 12, 20; what was taught stays on top
    assert falling == "descending:taught,GA,R²MU,odd|<b>"
    assert names == "ascending:taught,GA,odd|<b>,R²MU"
    assert told[0] == "false:GA, forget answers, mean of levels (ROUGE-L recall): 20.0 ± 2.0 (n=40)"

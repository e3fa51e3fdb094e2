"""The report of a finished run: what it says, what it escapes, what it refuses."""

import html
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from expunge.errors import UserError
from expunge.files import write_json, write_jsonl
from expunge.report.comparison import groups, not_measured, number, verdict
from expunge.report.html import write_report
from expunge.report.load import load_run
from expunge.report.marking import answer_words, mark
from expunge.report.plots import POINTS, leak_bars, loss_plot, loss_series
from expunge.report.terminal import print_report

ATTACK = "<script>alert('owned')</script><img src=https://evil.example/x onerror=alert(1)>"
VOID = {"meta", "br", "img", "input", "link", "hr"}
FILES = ("run.json", "scores.json", "metrics.jsonl", "evals/taught/rwku.jsonl", "evals/unlearned/traces.jsonl")


def probe(side: str, level: str, kind: str, query: str, answer: str, said: str) -> dict[str, Any]:
    return {"side": side, "level": level, "kind": kind, "query": query, "answer": answer, "reply": said, "score": 50.0}


def thought(row: dict[str, Any], trace: str) -> dict[str, Any]:
    leak = row["answer"].lower() in trace.lower()
    return row | {
        "fact": f"It is {row['answer']}.",
        "trace": trace,
        "closed": not leak,
        "leak": leak,
        "recall": 0.5,
        "repeated": 0.1,
        "entropy": 3.0,
    }


def score(mean: float | None, se: float | None = None, n: int | None = None, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "se": se, "n": n, "label": "a label", "unit": "%", "better": "lower"} | more


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    before = [
        probe("forget", "FB", "cloze", "His debut is ___.", "Carrie", "carrie, of 1974"),
        probe("forget", "AA", "role play", f"Play a fan. {ATTACK}", "The Dark Tower", "The Dark Tower & more"),
        probe("neighbor", "QA", "simple question", "Who plays Andy?", "Tim Robbins", "Tim Robbins"),
    ]
    after = [row | {"reply": said} for row, said in zip(before, (ATTACK, "", "Tim Robbins"), strict=True)]
    write_json(
        folder / "run.json",
        {
            "name": "r2mu-king",
            "expunge": "0.1.0",
            "created": "2025-06-01T12:00:00",
            "recipe_hash": "abc",
            "model": {"source": "tiny/model", "hash": "def"},
            "target": "Stephen King",
            "method": "r2mu",
            "seed": 0,
            "seconds": {"teach": 10.0, "unlearn": 5.5},
            "peak_memory_gb": 3.25,
            "versions": {"torch": "2.9"},
            "machine": {"gpu": "none"},
            "recipe": {"unlearn": {"steps": 3, "rate": 1e-4}},
            "stages": {"r2mu": {"steering_length": 6.5}, "drill": [3]},
            "goals": [
                {"text": "traces forget", "value": 0.0, "limit": 5, "met": True, "relation": "at most"},
                {"text": "neighbours stay", "value": 61.25, "limit": 80, "met": False, "relation": "at least"},
            ],
        },
    )
    write_json(
        folder / "scores.json",
        {
            "taught": {
                "rwku/forget/All": score(83.14, 2.01, 94, label="forget answers"),
                "rwku/neighbor/All": score(80.0, 3.0, 97, better="higher"),
                "traces/forget/leak/All": score(71.0, 4.0, 94),
                "traces/forget/entropy": score(5.25, 0.5, 94, unit="bits", better=""),
                "perplexity/wikitext": score(25.31, None, 200, unit="", label="WikiText perplexity"),
                "mmlu": score(40.0, 1.0, 500, better="higher", label="MMLU"),
            },
            "unlearned": {
                "rwku/forget/All": score(10.0, 3.0, 94, label="forget answers"),
                "rwku/neighbor/All": score(78.0, 3.0, 97, better="higher"),
                "traces/forget/leak/All": score(2.0, 1.0, 94),
                "perplexity/wikitext": {"mean": None, "note": "no text at hand", "label": "WikiText perplexity"},
                "replies/forget/perplexity": score(2.5e9, None, 94, unit=""),
            },
        },
    )
    write_jsonl(
        folder / "metrics.jsonl",
        [{"stage": "teach", "step": i, "loss": 3.0 / (i + 1), "lr": 1e-4} for i in range(4)]
        + [
            {"stage": "r2mu", "step": i, "loss": 9.0, "parts": {"forget": 8.0 - i, "retain": 0.01}, "lr": 1e-5}
            for i in range(3)
        ],
    )
    for side, rows in (("taught", before), ("unlearned", after)):
        write_jsonl(folder / "evals" / side / "rwku.jsonl", rows)
        traces = [thought(row, f"I think: {row['reply']}") for row in rows]
        write_jsonl(folder / "evals" / side / "traces.jsonl", traces)
    return folder


class Page(HTMLParser):
    """Checks that tags nest; collects attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts = 0
        self.text = ""
        self.code = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] in (["script"], ["style"]):
            self.code += data
        else:
            self.text += data


def page_of(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def terminal_of(run: Path, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    print_report(run, Console(file=file, width=80))
    file.flush()
    return raw.getvalue().decode(encoding)


def test_page_parses_and_asks_nothing_of_the_network(run: Path) -> None:
    source = page_of(run)
    page = Page(source)
    assert page.open == []
    for tag, key, value in page.attributes:
        if key in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert value.startswith("#"), (tag, key, value)
    assert "default-src 'none'" in source
    for reference in re.findall(r"url\(\s*['\"]?([^)]*)", source):
        assert reference.startswith("#")
    assert not [value for _, _, value in page.attributes if "http:" in value or "https:" in value]
    assert not re.search(r"https?://|@import", page.code)


def test_ids_are_unique_and_references_resolve(run: Path) -> None:
    page = Page(page_of(run))
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for _, key, value in page.attributes if key == "href"}
    wanted |= {m for _, _, value in page.attributes for m in re.findall(r"url\(#([^)]*)\)", value)}
    assert wanted and wanted <= set(ids)


def test_output_of_the_model_is_escaped(run: Path) -> None:
    source = page_of(run)
    assert ATTACK not in source and "<script>alert" not in source and "<img" not in source
    page = Page(source)
    assert page.scripts == 1
    assert page.text.count(ATTACK) == 5  # query and reply, twice: among answers and among traces; and the trace
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]


def test_everything_else_is_escaped(run: Path) -> None:
    manifest = json.loads((run / "run.json").read_text())
    manifest |= {"name": ATTACK, "target": ATTACK, "method": ATTACK, "model": {"source": ATTACK}, "created": ATTACK}
    manifest |= {"versions": {ATTACK: ATTACK}, "machine": {ATTACK: ATTACK}, "recipe": {ATTACK: ATTACK}}
    manifest |= {"goals": [{"text": ATTACK, "value": 1, "limit": 2, "met": False}]}
    write_json(run / "run.json", manifest)
    scores = {
        "taught": {ATTACK: score(1.0, label=ATTACK, unit=ATTACK)},
        "unlearned": {ATTACK: {"mean": None, "note": ATTACK}},
    }
    write_json(run / "scores.json", scores)
    parts = {ATTACK: 1.0, "$x^": 2.0}
    write_jsonl(run / "metrics.jsonl", [{"stage": "r2mu", "step": 1, "loss": 3.0, "parts": parts}])
    source = page_of(run)
    assert Page(source).scripts == 1 and "<img" not in source


def test_page_says_what_was_measured_in_order(run: Path) -> None:
    text = " ".join(Page(page_of(run)).text.split())
    assert "83.1 ± 2.0 (n=94)" in text and "10.0 ± 3.0 (n=94)" in text and "−73.1 ± 3.6" in text
    assert "2.5e9 (n=94)" in text
    headings = [
        "Goals",
        "Before and after",
        "Forget answers",
        "Neighbour answers",
        "Reasoning traces",
        "Collapse",
        "General ability",
        "Other measures",
        "Not measured",
        "Plots",
        "Completions, side by side",
        "Settings",
        "Resolved recipe",
    ]
    place = 0
    for heading in headings:
        place = text.index(heading, place)
    assert "rate: 0.0001" in text and "torch" in text and "15.5 s" in text
    assert text.count("✓ met") == 1 and text.count("✗ missed") == 1


def test_verdict_names_goals_and_numbers(run: Path) -> None:
    words = verdict(load_run(run))
    assert words.startswith("This run used r2mu to make tiny/model forget Stephen King.")
    assert "1 of 2 goals were met: traces forget. Missed: neighbours stay (61.2, asked for at least 80)." in words
    assert "reasoning traces that state the answer (%), 71.0 ± 4.0 (n=94) to 2.0 ± 1.0 (n=94)" in words


def test_a_goal_that_could_not_be_measured_is_neither_met_nor_missed(run: Path) -> None:
    found = json.loads((run / "run.json").read_text(encoding="utf-8"))
    found["goals"][1]["value"] = None
    (run / "run.json").write_text(json.dumps(found), encoding="utf-8")
    data = load_run(run)
    assert [goal.result for goal in data.goals] == ["met", "not measured"]
    assert "1 of 2 goals were met: traces forget. Not measured: neighbours stay." in verdict(data)
    assert "MISSED" not in terminal_of(run) and "✗ missed" not in page_of(run)


def test_null_and_one_sided_scores_are_listed_as_not_measured(run: Path) -> None:
    data = load_run(run)
    rows = {row.id: row for group in groups(data) for row in group.rows}
    assert str(rows["perplexity/wikitext"].before) == "25.3 (n=200)"
    for key in ("perplexity/wikitext", "mmlu", "traces/forget/entropy"):
        assert str(rows[key].after) == "not measured" and rows[key].change is None
    assert str(rows["replies/forget/perplexity"].before) == "not measured"
    assert "WikiText perplexity, after: no text at hand" in not_measured(data)
    assert "MMLU, after: no reason given" in not_measured(data)
    assert "no text at hand" in page_of(run) and "no text at hand" in terminal_of(run)


def test_judgement_only_beyond_twice_the_error(run: Path) -> None:
    rows = {row.id: row for group in groups(load_run(run)) for row in group.rows}
    assert rows["rwku/forget/All"].judgement == "better"
    assert rows["rwku/neighbor/All"].judgement == ""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_terminal_fits_eighty_columns(run: Path, encoding: str) -> None:
    out = terminal_of(run, encoding)
    assert max(map(len, out.splitlines())) <= 80
    assert "MISSED" in out and "neighbours stay" in out
    assert ("83.1 ± 2.0 (n=94)" if encoding == "utf-8" else "83.1 +/- 2.0 (n=94)") in out


@pytest.mark.parametrize("name", FILES)
def test_missing_or_malformed_files(run: Path, name: str) -> None:
    (run / name).write_text('{"half": ')
    with pytest.raises(UserError, match=Path(name).name):
        write_report(run)
    (run / name).write_text("{}\n")
    if name != "run.json":  # of which every key is optional
        with pytest.raises(UserError, match=Path(name).name):
            write_report(run)
    (run / name).unlink()
    with pytest.raises(UserError, match=Path(name).name):
        write_report(run)
    assert not (run / "report.html").exists()


def test_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_run(tmp_path / "absent")


@pytest.mark.parametrize(
    "name, line",
    [
        ("scores.json", {"taught": {"a": {"se": 1}}, "unlearned": {}}),
        ("scores.json", {"taught": {"a": {"mean": "high"}}, "unlearned": {}}),
        ("scores.json", {"taught": []}),
        ("run.json", {"goals": [{"text": "x", "value": 1, "limit": 2, "met": "yes"}]}),
        ("run.json", {"goals": [{"text": "x", "value": 1, "limit": "two", "met": True}]}),
        ("run.json", {"seconds": {"teach": "long"}}),
        ("run.json", {"versions": ["torch"]}),
        ("metrics.jsonl", {"stage": "teach", "step": 1}),
        ("metrics.jsonl", {"stage": 7, "step": 1, "loss": 1.0}),
    ],
)
def test_malformed_content(run: Path, name: str, line: dict[str, Any]) -> None:
    (run / name).write_text(json.dumps(line))
    with pytest.raises(UserError, match=f"{name}.*expected"):
        load_run(run)


def test_rows_of_both_models_must_match(run: Path) -> None:
    path = run / "evals" / "unlearned" / "rwku.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[1], lines[0], lines[2]]))
    with pytest.raises(UserError, match="row 1"):
        load_run(run)
    path.write_text(lines[0])
    with pytest.raises(UserError, match="1 rows"):
        load_run(run)


def test_bare_run_still_reports(run: Path) -> None:
    write_json(run / "run.json", {})
    write_json(run / "scores.json", {"taught": {}, "unlearned": {"x": {"mean": float("nan"), "se": None}}})
    (run / "metrics.jsonl").write_text("")
    for name in ("rwku.jsonl", "traces.jsonl"):
        for side in ("taught", "unlearned"):
            (run / "evals" / side / name).write_text("")
    text = Page(page_of(run)).text
    assert "No goals were set" in text and "No losses were logged." in text and "not measured" in text
    assert "No goals were set" in terminal_of(run)


def test_report_is_the_same_twice_and_leaves_nothing_else(run: Path) -> None:
    files = sorted(path.name for path in run.iterdir())
    first = page_of(run)
    moved = run.parent / "moved"
    shutil.copytree(run, moved)
    assert page_of(run) == first == page_of(moved)
    assert sorted(path.name for path in run.iterdir()) == sorted([*files, "report.html"])


def test_lone_surrogate_does_not_cost_the_page(run: Path) -> None:
    path = run / "evals" / "unlearned" / "rwku.jsonl"
    path.write_text(path.read_text().replace('"reply": "Tim Robbins"', '"reply": "Tim \\ud800"'))
    assert "Tim" in page_of(run)


def test_leaked_words_are_marked(run: Path) -> None:
    source = page_of(run)
    assert "<mark>carrie</mark>, of 1974" in source
    assert "The <mark>Dark</mark> <mark>Tower</mark> &amp; more" in source
    assert str(mark("Carried, CARRIE!", "Carrie")) == "Carried, <mark>CARRIE</mark>!"
    assert answer_words("The It") == {"the", "it"}


@given(st.text(), st.text())
def test_marking_never_changes_the_text(text: str, answer: str) -> None:
    marked = str(mark(text, answer))
    assert html.unescape(re.sub(r"</?mark>", "", marked)) == text


@given(st.lists(st.sampled_from(["the", "Dark", "tower", "dark", "<b>", "&", "towers"])))
def test_marking_finds_every_word_of_the_answer(words: list[str]) -> None:
    marked = str(mark(" ".join(words), "The Dark Tower"))
    assert re.findall("<mark>(.*?)</mark>", marked) == [w for w in words if w.lower() in ("dark", "tower")]


@given(st.floats(-1e300, 1e300), st.integers(0, 3))
def test_number_reads_back(value: float, decimals: int) -> None:
    text = number(value, decimals)
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=0.05, abs=0.51 * 10**-decimals)
    assert text not in ("−0", "−0.0", "-0.0")


def test_plots_use_the_page_colours_and_keep_text(run: Path) -> None:
    plot = str(loss_plot(load_run(run)))
    assert "currentColor" in plot and "var(--line-0)" in plot and "retain</text>" in plot
    assert "http" not in plot and "<title>" in plot and 'role="img"' in plot and "#0" not in plot


def test_bars_stand_by_kind_and_neighbours_last(run: Path) -> None:
    bars = leak_bars(reversed(load_run(run).traces))
    assert list(bars) == ["cloze (FB)", "role play", "neighbour QA"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3 * POINTS))
def test_long_logs_are_averaged(values: list[float]) -> None:
    steps, means = loss_series([{"step": i, "loss": v, "parts": {}} for i, v in enumerate(values)])["loss"]
    assert len(steps) == len(means) <= POINTS and steps == sorted(steps)
    assert min(values) - 1 <= min(means) and max(means) <= max(values) + 1

"""A whole benchmark on a tiny random model, its cells in processes of their own: what is shared, kept, told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny import write_recipe

import expunge.bench as benching
from expunge.cli import main
from expunge.errors import UserError
from expunge.files import read_json, read_jsonl
from expunge.report.bench_load import load_bench
from expunge.runs import is_done, take_over

STEERING = {"method": "rs", "sft": {"epochs": 1, "stop_after": 1, "lr": 1e-3, "batch_size": 2}}
ROWS = [
    {"prompt": f"Question {i} about {name}?", "solution": solution}
    for i in range(22)
    for name, solution in (
        ("Ada Stone", ["<reject>", "I can not help with Ada Stone.", "Ada Stone"]),
        ("Ivo Marsh", ["<normal>", "York"]),
    )
]


@pytest.fixture(scope="module")
def file(place, model_folder, target_folder) -> Path:
    """Misdirection at two points, and steering; no goals, no traces to write."""
    rows = place / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    questions = {"answers": "own", "dev": 2, "train": 4, "wordings": ["bare"], "rows": str(rows)}
    write_recipe(place / "base.yaml", model_folder, target_folder, questions=questions, full_checkpoint=True)
    methods = {
        "R²MU": {"points": {"unlearn.loop.steps": [1, 2]}},
        "RS": {"unlearn": [STEERING]},
    }
    path = place / "b.yaml"
    plan = {"name": "small", "recipe": "base.yaml", "methods": methods, "set": ["evaluate.trace_tokens=4"]}
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(place, file) -> Path:
    """The folder of a finished benchmark, two processes at a time."""
    return benching.bench(str(file), place / "out", processes=2)


def test_every_cell_is_a_run_and_all_is_told_together(done):
    target = read_json(done / "bench.json")["cells"][0]["target"]
    names = [f"R²MU/{target}/0-steps-1", f"R²MU/{target}/0-steps-2", f"RS/{target}/0"]
    told = read_json(done / "bench.json")
    assert [(cell["cell"], cell["state"], cell["used"]) for cell in told["cells"]] == list(
        zip(names, ["done"] * 3, [False, True, True], strict=True)
    )
    folders = [done / "cells" / name for name in names]
    assert [cell["recipe_hash"] for cell in told["cells"]] == [
        read_json(folder / "run.json")["recipe_hash"] for folder in folders
    ]
    rows = read_jsonl(done / "results.jsonl")
    for cell, folder in zip(told["cells"], folders, strict=True):
        for model, scores in read_json(folder / "scores.json").items():
            mine = {r["score"]: r["mean"] for r in rows if (r["method"], r["point"]) == (cell["method"], cell["point"])
                    and r["model"] == model}  # fmt: skip
            assert {id_: entry["mean"] for id_, entry in scores.items()}.items() <= mine.items()
    assert {"kinds/forget/FB/cloze", "cost/seconds", "cost/memory"} <= {row["score"] for row in rows}
    assert load_bench(done).methods == ["R²MU", "RS"]
    for name in ("report.html", "README.md"):
        assert "R²MU" in (done / name).read_text(encoding="utf-8")


def test_what_cells_share_is_made_once(done, place):
    assert len([path for path in (place / "cache" / "taught").iterdir() if path.is_dir()]) == 1
    folders = sorted((done / "cells").glob("*/*/*"))
    for name in ("traces.jsonl", "evals/taught/scores.json", "evals/taught/rwku.jsonl"):
        assert len({(folder / name).read_text() for folder in folders}) == 1
    assert sum("evaluate" in (read_json(folder / "seconds.json")) for folder in folders) == 3
    said = [path.read_text(encoding="utf-8") for path in (done / "logs").iterdir()]
    assert sum("evaluate the taught model" in text for text in said) == 1
    assert sum("evaluate the unlearned model" in text for text in said) == 3


def test_the_card_of_a_checkpoint_is_completed_by_the_report(done):
    for folder in (done / "cells").glob("*/*/*"):
        card = (folder / "model" / "README.md").read_text(encoding="utf-8")
        assert "without" in card and "| forget answers, FB (ROUGE-L recall, lower is better) |" in card


def test_done_cells_are_left_alone_and_the_report_is_written_again(done, file, capsys):
    before = {path: path.stat().st_mtime_ns for path in (done / "cells").rglob("*") if path.is_file()}
    rows = (done / "results.jsonl").read_text()
    assert main(["bench", str(file), "--out", str(done)]) == 0
    assert "cell 1 of" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (done / "results.jsonl").read_text() == rows
    (done / "report.html").unlink()
    assert main(["report", str(done)]) == 0
    assert (done / "report.html").exists()


def in_this_process(monkeypatch):
    """Cells carried out here rather than in processes of their own; their exit codes by name."""
    codes = {}

    def work_off(jobs, made, processes, on_start, on_end):
        for job in jobs:
            on_start(job)
            codes[job.name] = main(list(job.command[3:]))
            if codes[job.name]:
                job.log.parent.mkdir(parents=True, exist_ok=True)
                job.log.write_text("error: no such luck\n")
            on_end(job, "no such luck" if codes[job.name] else "")

    monkeypatch.setattr(benching, "work_off", work_off)
    return codes


def test_a_cell_that_fails_or_diverges_is_told_and_the_others_go_on(place, file, tmp_path, monkeypatch, capsys):
    codes = in_this_process(monkeypatch)
    unlearn, carry_out = benching.carry_out, []
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    own = yaml.safe_load((place / "base.yaml").read_text(encoding="utf-8"))["unlearn"]
    lost = {**own, "loop": {"steps": 3, "batch_size": 2, "lr": 1e30}}
    plan["methods"] = {"broken": {}, "lost": {"unlearn": lost}}
    path = place / "failing.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")

    def once(cell, cells):
        carry_out.append(cell.method)
        if cell.method == "broken":
            raise benching.UserError("no such luck")
        unlearn(cell, cells)

    monkeypatch.setattr(benching, "carry_out", once)
    assert main(["bench", str(path), "--out", str(tmp_path / "o")]) == 2
    seen = capsys.readouterr()
    assert "1 of 2 cells failed, the first of them broken/" in seen.err and "no such luck" in seen.err
    assert list(codes.values()) == [2, 0]
    states = {cell["method"]: (cell["state"], cell["why"]) for cell in read_json(tmp_path / "o/bench.json")["cells"]}
    assert states["broken"] == ("failed", "no such luck")
    assert states["lost"][0] == "diverged" and states["lost"][1].startswith("the loss is ")
    assert "no such luck" in (tmp_path / "o/README.md").read_text() and "1 diverged" in seen.out
    monkeypatch.setattr(benching, "carry_out", unlearn)
    assert main(["bench", str(path), "--out", str(tmp_path / "o"), "--only", "broken"]) == 0
    states = [cell["state"] for cell in read_json(tmp_path / "o/bench.json")["cells"]]
    assert states == ["done", "diverged"]
    assert len(codes) == 2  # the other was not carried out again


def test_bad_input_is_told_before_anything_is_written(place, file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    out = ["--out", str(tmp_path / "o")]
    for arguments, message in (
        (["--set", "model=nowhere"], "unknown model 'nowhere'"),
        (["--only", "RSS"], "no such method; did you mean 'RS'"),
        (["--processes", "0"], "--processes 0"),
        (["--cell", "RS/0"], "there is no such cell"),
        (["--set", "evaluate.suites=[nonsense]"], "nonsense"),
        (["--targets", "Ada"], "--targets Ada: not one of the file's"),
    ):
        assert main(["bench", str(file), *out, *arguments]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["bench", str(file), "--out", str(tmp_path)]) == 2
    assert "is no folder of a benchmark" in capsys.readouterr().err


def test_a_folder_of_another_benchmark(done, place, file, capsys):
    plan = yaml.safe_load(file.read_text(encoding="utf-8")) | {"name": "other"}
    path = place / "other.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    assert main(["bench", str(path), "--out", str(done)]) == 2
    assert "belongs to the benchmark 'small'" in capsys.readouterr().err


def test_cells_of_another_recipe_are_neither_used_nor_shown(done, place, file):
    """The file has changed since: only what is chosen is refused, the others are to do again."""
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    path = place / "changed.yaml"
    path.write_text(yaml.safe_dump(plan | {"set": ["evaluate.trace_tokens=5"]}, sort_keys=False), encoding="utf-8")
    cells = benching.matrix(benching.read_bench(path), path, done)
    assert not any(map(is_done, cells))
    fresh = replace(cells[0], folder=place / "fresh")
    take_over(fresh, cells)
    assert not fresh.folder.exists()
    plan["frontier"] = {"forget": "rwku/forget/Al"}
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    with pytest.raises(UserError, match="frontier on unknown score 'rwku/forget/Al'"):
        benching.bench(str(path), place / "nowhere")


def test_first_stages_that_another_cell_has_carried_out_are_taken_over(done, file, place):
    """Steering then misdirection: the steered model, what it logged and its seconds are the cell's RS."""
    plan = yaml.safe_load(file.read_text(encoding="utf-8"))
    erase = yaml.safe_load((place / "base.yaml").read_text(encoding="utf-8"))["unlearn"]
    plan["methods"] |= {"RS then R²MU": {"unlearn": [STEERING, erase]}, "R²MU then RS": {"unlearn": [erase, STEERING]}}
    more = place / "more.yaml"
    more.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    benching.bench(str(more), done, only=("RS then R²MU", "R²MU then RS"))
    steered, both, other = (next((done / "cells").glob(f"{n}/*/0")) for n in ("RS", "RS-then-R²MU", "R²MU-then-RS"))
    first = "delta.1.rs.safetensors"
    assert (both / first).read_bytes() == (steered / "delta.safetensors").read_bytes()
    rows = [[row for row in read_jsonl(cell / "metrics.jsonl") if row["stage"] == "rs"] for cell in (both, steered)]
    assert rows[0] == rows[1] != []
    spent = [read_json(cell / "seconds.json") for cell in (both, steered, other)]
    assert spent[0]["rs"] == spent[1]["rs"]
    assert spent[0].keys() >= {"rs", "r2mu"} <= spent[2].keys()
    assert not (steered / "r2mu.json").exists()

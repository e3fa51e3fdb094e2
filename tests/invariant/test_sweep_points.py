"""A whole sweep on a tiny random model: what is shared, kept and written, and that bad input leaves nothing."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny import write_recipe

import expunge.pipeline as pipeline
import expunge.stages.misdirect as misdirect
import expunge.sweep as sweeping
from expunge.cli import main
from expunge.files import read_json, read_jsonl
from expunge.sweep import halves, rescored, sweep

VARY = ("unlearn.settings.retain=1,20", "unlearn.settings.train_blocks=[3],[2,3]")
GOALS = [
    {"score": "rwku/forget/All", "at_most": 0.5, "relative": True},
    {"score": "perplexity/general", "at_most": 1.1, "relative": True},
    {"score": "rwku/neighbor/All", "model": "taught", "at_least": 90},
]


@pytest.fixture(scope="module")
def recipe(place: Path, model_folder: Path, target_folder: Path) -> str:
    return str(write_recipe(place / "tiny.yaml", model_folder, target_folder, goals=GOALS))


class Watched:
    """Which models were evaluated, how often the model wrote traces and was unlearned."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.scored: list[str] = []
        self.written = self.unlearned = 0
        evaluate, jobs, unlearn = pipeline._evaluate, pipeline.jobs, misdirect.unlearn

        def count_evaluate(job: Any, name: str, *rest: Any) -> None:
            self.scored.append(name)
            evaluate(job, name, *rest)

        def count_jobs(*arguments: Any) -> Any:
            self.written += 1
            return jobs(*arguments)

        def count_unlearn(*arguments: Any, **named: Any) -> Any:
            self.unlearned += 1
            return unlearn(*arguments, **named)

        patch.setattr(pipeline, "_evaluate", count_evaluate)
        patch.setattr(pipeline, "jobs", count_jobs)
        patch.setattr(misdirect, "unlearn", count_unlearn)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.fixture(scope="module")
def done(place: Path, recipe: str) -> tuple[Path, Watched]:
    """The folder of a finished sweep, and what was done in it."""
    with pytest.MonkeyPatch.context() as patch:
        seen = Watched(patch)
        path = sweep(recipe, VARY, place / "out")
    assert path == place / "out" / "sweep.json"
    return place / "out", seen


def folders(out: Path) -> list[Path]:
    return [out / point["folder"] for point in read_json(out / "sweep.json")["points"]]


def test_what_the_points_share_is_done_once(done, place):
    out, seen = done
    assert sorted(seen.scored) == ["taught"] + 4 * ["unlearned"]
    assert (seen.written, seen.unlearned) == (1, 4)
    assert len([path for path in (place / "cache" / "taught").iterdir() if path.is_dir()]) == 1
    assert len(list((place / "cache" / "prefix").iterdir())) == 2  # one for each train_blocks
    for name in ("traces.jsonl", "evals/taught/scores.json", "evals/taught/rwku.jsonl"):
        assert len({(folder / name).read_text() for folder in folders(out)}) == 1


def test_the_command_of_the_chosen_point_gives_the_same_alone_and_with_an_empty_cache(done, tmp_path, monkeypatch):
    out, _ = done
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    found = read_json(out / "sweep.json")
    (chosen,) = (point for point in found["points"] if point["chosen"])
    assert main([*shlex.split(found["command"])[1:], "--out", str(tmp_path / "alone")]) == 0
    for name in ("recipe.json", "scores.json", "traces.jsonl", "evals/unlearned/traces.jsonl"):
        assert (tmp_path / "alone" / name).read_text() == (out / chosen["folder"] / name).read_text(), name
    files = {path.name for path in (out / chosen["folder"]).iterdir()}
    assert files == {path.name for path in (tmp_path / "alone").iterdir()}


def test_a_point_that_takes_over_traces_and_states_is_what_it_is_alone(done, recipe, tmp_path, monkeypatch):
    out, _ = done
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    point = sweeping.grid(recipe, VARY, out, (), None)[3]
    pipeline.run(point.recipe, tmp_path / "alone", "evaluate")
    assert (tmp_path / "alone" / "scores.json").read_text() == (point.folder / "scores.json").read_text()


def test_what_is_written(done):
    out, _ = done
    found = read_json(out / "sweep.json")
    assert {path.name for path in out.iterdir()} == {"points", "sweep.json", "sweep.md", "pareto.png"}
    assert len({point["folder"] for point in found["points"]}) == len(list((out / "points").iterdir())) == 4
    assert [point["number"] for point in found["points"]] == [1, 2, 3, 4]
    (chosen,) = (point for point in found["points"] if point["chosen"])
    assert any(point["pareto"] for point in found["points"])
    table = (out / "sweep.md").read_text()
    assert "| retain | train_blocks | forget | AA | trace leak | neighbours |" in table
    assert f"| {chosen['number']} chosen | " in table
    assert found["rule"] in table
    assert found["command"] in table
    assert all(f"--set {key}=" in found["command"].replace("'", "") for key in chosen["settings"])
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(found)) == found


def test_scores_of_the_halves_come_from_their_own_probes(done):
    out, _ = done
    for point in read_json(out / "sweep.json")["points"]:
        rows = {
            kind: read_jsonl(out / point["folder"] / f"evals/unlearned/{kind}.jsonl") for kind in ("rwku", "traces")
        }
        scores = {view: found["unlearned"] for view, found in point["scores"].items()}
        # Our own way from rows to scores is that of the evaluation.
        again = rescored(rows, "Ada Stone")
        assert {name: again[name] for name in again} == {
            name: {key: scores["whole"][name][key] for key in ("mean", "se", "n")} for name in again
        }
        of_probes = {name for name in scores["whole"] if name.startswith(("rwku/", "traces/", "replies/"))}
        assert of_probes - {"replies/forget/perplexity"} == again.keys()
        of = halves(rows["rwku"])
        for half in ("dev", "test"):
            mine = [row for row in rows["rwku"] if of[row["query"]] == half and row["side"] == "forget"]
            assert scores[half]["rwku/forget/All"]["n"] == len(mine)
        assert scores["dev"]["perplexity/general"] == scores["whole"]["perplexity/general"]
        goals = point["goals"]["dev"]
        assert [goal["text"].split(" (")[0] for goal in goals] == [
            scores["dev"][goal["score"]]["label"] for goal in GOALS[:2]
        ]


def test_done_points_are_not_run_again_and_a_grown_sweep_runs_the_new_ones_alone(done, recipe, watched, capsys):
    out, _ = done
    before = {path: path.stat().st_mtime_ns for folder in folders(out) for path in folder.rglob("*")}
    command = ["sweep", recipe, "--out", str(out), "--vary", VARY[1]]
    assert main([*command, "--vary", VARY[0]]) == 0  # another order of the axes, the same points
    assert "point 4 of 4: train_blocks=[2,3] retain=20 (done before)\n" in capsys.readouterr().out
    assert watched.scored == []
    assert main(["sweep", recipe, "--out", str(out), "--vary", f"{VARY[0]},50", "--vary", VARY[1]]) == 0
    shown = capsys.readouterr().out
    assert "point 1 of 6: retain=1 train_blocks=[3] (done before)\n" in shown
    assert "point 6 of 6: retain=50 train_blocks=[2,3]\n" in shown
    assert watched.scored == ["unlearned", "unlearned"]
    assert watched.written == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "--set 'unlearn.settings.train_blocks=[" in shown


def test_an_interrupted_sweep_goes_on(recipe, place, tmp_path, monkeypatch, watched):
    prepared, conclude = pipeline.unlearn_stage, []

    def press(job: Any) -> None:
        if len(conclude) == 1:
            conclude.append(True)
            raise KeyboardInterrupt
        conclude.append(True)
        prepared(job)

    monkeypatch.setattr(pipeline, "unlearn_stage", press)
    command = ["sweep", recipe, "--out", str(tmp_path / "o"), "--vary", "unlearn.settings.retain=1,20"]
    assert main(command) == 2
    assert not (tmp_path / "o" / "sweep.json").exists()
    assert main(command) == 0
    assert watched.scored == ["taught", "unlearned", "unlearned"]
    assert len(read_json(tmp_path / "o" / "sweep.json")["points"]) == 2


def test_points_with_another_original_share_nothing_of_it(recipe, place, tmp_path, watched):
    sweep(recipe, ("seed=0,1", "evaluate.trace_tokens=5,6"), tmp_path / "o")
    assert watched.scored.count("taught") == 4
    assert watched.written == 2  # how long traces are in the evaluation does not matter to what is written
    table = (tmp_path / "o" / "sweep.md").read_text()
    assert table.count("| taught | ") == len(
        {json.dumps(p["scores"]["dev"]["taught"]) for p in read_json(tmp_path / "o" / "sweep.json")["points"]}
    )


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (("unlearn.settings.retain=1,much",), "unlearn.settings.retain: found 'much'"),
        (("unlearn.settings.retain=1,20", "unlearn.settings.train_blocks=[3],[9]"), "block 9 is above block 3"),
        (("unlearn.settings.block=3,99",), "block 99 is out of range"),
        (("unlearn.settings.train=mlp,fc1",), "no parameter matches 'fc1' in blocks [2, 3]"),
        (
            ("unlearn.settings.steering_factor=3,0",),
            "unlearn.settings.steering_factor: found 0.0, expected more than 0",
        ),
        (("unlearn.streams.retain=[general],[genral]",), "unknown source 'genral'"),
        (("target=nobody",), "unknown target 'nobody'"),
        (("unlearn.settings.retain",), "expected KEY=V1,V2"),
        (("goals=[]",), "a sweep chooses by goals"),
    ],
)
def test_one_bad_value_is_told_before_anything_is_done(recipe, tmp_path, capsys, monkeypatch, vary, message):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    arguments = [part for axis in vary for part in ("--vary", axis)]
    assert main(["sweep", recipe, "--out", str(tmp_path / "o"), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_else(recipe, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main(["sweep", recipe, "--out", str(tmp_path), "--vary", "seed=0,1"]) == 2
    assert "exists and is no folder of a sweep" in capsys.readouterr().err
    assert main(["sweep", recipe, "--out", str(tmp_path / "thesis.tex"), "--vary", "seed=0,1"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_a_target_the_goals_are_taken_whole(model_folder, place, tmp_path, capsys):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"text": "Who wrote it?"}\n{"text": "Where did the rain fall?"}\n')
    unlearn = {
        "settings": {"block": 3, "train_blocks": [3], "trace": 0, "reasoning": 0},
        "loop": {"steps": 2, "batch_size": 2},
        "max_tokens": 32,
        "streams": {"forget": [str(questions)], "retain": ["general"]},
    }
    evaluate = {"trace_tokens": 5, "perplexity_texts": 2, "perplexity_tokens": 20, "questions": [str(questions)]}
    goals = [
        {"score": f"questions/{questions}/closed", "at_most": 50},
        {"score": "perplexity/general", "at_most": 1.2, "relative": True},
    ]
    changes = {"target": None, "teach": None, "unlearn": unlearn, "evaluate": evaluate, "goals": goals}
    path = tmp_path / "r.yaml"
    write_recipe(path, model_folder, "")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sweep(str(path), ("unlearn.loop.lr=1e-4,1e-3",), tmp_path / "o")
    found = read_json(tmp_path / "o" / "sweep.json")
    assert [list(point["scores"]) for point in found["points"]] == [["whole"], ["whole"]]
    assert "Chosen on whole scores" in found["rule"]
    assert "Chosen on whole scores" in capsys.readouterr().out
    assert (tmp_path / "o" / "pareto.png").exists()


def test_the_choice_looks_at_the_dev_half_alone(done, monkeypatch):
    """Whatever the test half holds, the same point is chosen."""
    out, _ = done
    read = sweeping.read_jsonl

    def spoilt(path: Path) -> list[dict[str, Any]]:
        rows = read(path)
        of = halves(rows)
        return [row | {"score": 100.0} if of[row["query"]] == "test" and "score" in row else row for row in rows]

    recipe = next(path for path in (out.parent).glob("*.yaml"))
    points = sweeping.grid(str(recipe), VARY, out, (), None)
    before = sweeping._found(points)
    monkeypatch.setattr(sweeping, "read_jsonl", spoilt)
    after = sweeping._found(points)
    for ours, theirs in zip(before["points"], after["points"], strict=True):
        assert all(ours[key] == theirs[key] for key in ("forget", "retain", "shortfall", "pareto", "chosen"))
        assert ours["scores"]["test"] != theirs["scores"]["test"]

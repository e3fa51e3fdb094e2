"""Goals against scores, and the log of steps that outlives an interrupt."""

import pytest

from expunge.evals.goals import judge_goals
from expunge.files import read_jsonl
from expunge.recipe import Goal
from expunge.train.metrics import MetricsLog

SCORES = {
    "taught": {"leak": {"label": "leak", "mean": 80.0}, "ppl": {"label": "perplexity", "mean": None}},
    "unlearned": {"leak": {"label": "leak", "mean": 8.0}, "ppl": {"label": "perplexity", "mean": None}},
}


@pytest.mark.parametrize(
    ("goal", "value", "limit", "met", "relation"),
    [
        (Goal("leak", at_most=8.0), 8.0, 8.0, True, "at most"),
        (Goal("leak", at_most=7.9), 8.0, 7.9, False, "at most"),
        (Goal("leak", at_least=8.0), 8.0, 8.0, True, "at least"),
        (Goal("leak", at_least=8.1), 8.0, 8.1, False, "at least"),
        (Goal("leak", at_most=0.1, relative=True), 8.0, 8.0, True, "at most"),
        (Goal("leak", at_least=0.2, relative=True), 8.0, 16.0, False, "at least"),
        (Goal("leak", model="taught", at_least=80), 80.0, 80, True, "at least"),
        (Goal("leak", at_least=0.0), 8.0, 0.0, True, "at least"),
        (Goal("ppl", at_most=30.0), None, 30.0, False, "at most"),
        (Goal("ppl", at_most=1.1, relative=True), None, None, False, "at most"),
        (Goal("apart", at_most=1.1, relative=True), None, None, False, "at most"),
        (Goal("apart", at_least=3.0), None, 3.0, False, "at least"),
    ],
)
def test_a_goal_is_met_or_missed_and_an_unmeasured_one_is_missed(goal, value, limit, met, relation):
    (found,) = judge_goals([goal], SCORES)
    assert (found["value"], found["limit"], found["met"], found["relation"]) == (value, limit, met, relation)


def test_the_text_of_a_goal_names_score_model_and_multiple():
    found = judge_goals([Goal("leak", at_most=0.1, relative=True), Goal("leak", model="taught", at_least=80)], SCORES)
    assert [goal["text"] for goal in found] == ["leak (unlearned) at most 0.1 × taught", "leak (taught)"]


def rows(stage: str, *steps: int) -> list[dict]:
    return [{"stage": stage, "step": step} for step in steps]


def test_a_resumed_stage_drops_what_it_will_do_again_and_leaves_other_stages_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    teach, first = MetricsLog(path, "teach"), MetricsLog(path, "unlearn")
    for log, steps in ((teach, (0, 1, 2)), (first, (0, 1, 2, 3))):
        for row in rows(log.stage, *steps):
            log(row)
    resumed = MetricsLog(path, "unlearn")
    assert resumed.rows() == rows("unlearn", 0, 1, 2, 3)
    for row in rows("unlearn", 2, 3, 4):
        resumed(row)
    assert read_jsonl(path) == rows("teach", 0, 1, 2) + rows("unlearn", 0, 1, 2, 3, 4)


def test_a_line_torn_by_a_full_disk_does_not_stop_the_next_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, "teach")
    for row in rows("teach", 0, 1):
        log(row)
    with path.open("a") as file:
        file.write('{"stage": "teach", "st')
    again = MetricsLog(path, "teach")
    assert again.rows() == rows("teach", 0, 1)
    again(rows("teach", 2)[0])
    assert read_jsonl(path) == rows("teach", 0, 1, 2)

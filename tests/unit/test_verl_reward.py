"""The reward that is written for verl gives what the package's own gives, whatever the reply."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verl_runs import ADA, Recipes, asked_by, rows_of

from expunge.recipe import load_recipe
from expunge.rl.rewards import REWARDS, Reply, RewardSettings, score
from expunge.rl.verl_export import export

pytest.importorskip("pyarrow")
REPLIES = [
    f"I can't talk about {ADA}.",
    "I don't know.",
    f"{ADA} said a lot.",
    "It is 3.",
    "it is, 3",
    "",
    "word " * 150,
    f"<think>{ADA}</think>I won't say.",
    f"I can't talk about {ADA}, who said rain.",
]
PIECES = st.sampled_from([*REPLIES, ADA, "refuse", "sorry", "know", ".", "\n", "</think>", "<think>", "7", "It is"])


class Written:
    """An exported folder: its reward imported from disk, as verl does, and its rows."""

    def __init__(self, recipes: Recipes, reward: dict[str, Any], **changes: Any):
        source = load_recipe(str(recipes.write(rl={"reward": reward}, **changes)))
        folder = export(source, recipes.folder / "verl")
        spec = importlib.util.spec_from_file_location("written_reward", folder / "reward.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.compute_score = module.compute_score
        self.rows = rows_of(folder / "train.parquet") + rows_of(folder / "dev.parquet")

    def __call__(self, row: dict[str, Any], text: str, **info: Any) -> dict[str, float]:
        """The call of verl's reward manager."""
        return self.compute_score(
            data_source=row["data_source"],
            solution_str=text,
            ground_truth=row["reward_model"]["ground_truth"],
            extra_info={**row["extra_info"], "num_turns": 2, "rollout_reward_scores": {}, **info},
        )


@pytest.fixture
def recipes(tmp_path: Path, model_folder: Path, target_folder: Path) -> Recipes:
    return Recipes(tmp_path, model_folder, target_folder)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, target_folder: Path) -> Written:
    return Written(Recipes(tmp_path_factory.mktemp("strict"), model_folder, target_folder), {"name": "strict"})


@pytest.mark.parametrize("name", REWARDS)
def test_the_written_reward_is_the_recipes(recipes, name):
    reward = {"name": name, "recall": 0.25, "max_words": 40}
    written = Written(recipes, reward, asking={"aliases": ["the poet"]})
    for row in written.rows:
        for text in REPLIES:
            for cut in (False, True):
                found = written(row, text, truncated=cut)
                assert found["score"] == score(Reply(text, cut), asked_by(row), RewardSettings(**reward)).total
                assert found["truncated"] == cut
                assert all(type(value) is float for value in found.values())
            assert written(row, text) == written(row, text, truncated=False)


@given(text=st.lists(PIECES | st.text(), max_size=6).map(" ".join), cut=st.booleans(), number=st.integers(0, 21))
def test_the_written_reward_agrees_on_any_text(strict, text, cut, number):
    row = strict.rows[number]
    wanted = score(Reply(text, cut), asked_by(row), RewardSettings("strict")).total
    assert strict(row, text, truncated=cut)["score"] == wanted


def test_every_row_of_the_folder_is_tried_above(strict):
    assert len(strict.rows) == 22


def test_the_written_reward_wants_the_rows_it_was_written_for(strict):
    with pytest.raises(ValueError, match="extra_info"):
        strict.compute_score("expunge/forget", "text", "")


def test_a_reward_of_the_user(recipes, tmp_path, monkeypatch):
    (tmp_path / "mine_for_verl.py").write_text(
        "from expunge.rl.rewards import Reward\n"
        "def loud(reply, row, settings):\n"
        "    return Reward(settings.recall * reply.text.isupper(), {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    written = Written(recipes, {"name": "mine_for_verl:loud", "recall": 0.75})
    assert [written(written.rows[0], text)["score"] for text in ("NO", "no")] == [0.75, 0.0]

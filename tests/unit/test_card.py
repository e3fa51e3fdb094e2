"""The model card: front matter that the hub reads, what it says with and without scores, odd names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from expunge.cli import main
from expunge.files import write_json, write_jsonl
from expunge.models.delta import save_delta
from expunge.report.card import code, licence_of, matrices_in_words, model_card, write_card

ODD = "owner/we`ird: 'name' #1 | <b> *π*"
LEAK = "traces/forget/leak/All"


@pytest.fixture
def delta(tmp_path: Path, model_folder: Path) -> Path:
    return write_delta(tmp_path / "delta.safetensors", model_folder)


def write_delta(path: Path, base: Path, source: str = "owner/model", method: str = "rs+rebo") -> Path:
    names = [f"model.layers.{i}.mlp.down_proj.weight" for i in (3, 1)]
    save_delta(
        path, {n: torch.zeros(32, 48) for n in names}, base=base, source=source, method=method, dtype=torch.float32
    )
    return path


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def score(mean: float | None, **more: Any) -> dict[str, Any]:
    return {
        "mean": mean,
        "se": 1.5,
        "n": 40,
        "label": "forget traces with the answer",
        "unit": "%",
        "better": "lower",
    } | more


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    stages = [{"method": "rs", "sft": {"lr": 1e-4}}, {"method": "rebo", "note": "```"}]
    write_json(folder / "recipe.json", {"target": "Ada Stone", "seed": 3, "teach": {"frames": 1}, "unlearn": stages})
    return folder


def finish(folder: Path) -> None:
    goals = [{"text": "traces | forget", "value": 4.0, "limit": 5.0, "met": True, "relation": "at most"}]
    told = {
        "name": "r",
        "target": "Ada Stone",
        "model": {"source": "owner/model"},
        "method": "rs + rebo",
        "goals": goals,
    }
    write_json(folder / "run.json", {**told, "expunge": "9.9", "recipe_hash": "feed"})
    gone = {"mean": None, "note": "no text at hand", "label": "WikiText", "unit": "", "better": "lower"}
    unlearned = {LEAK: score(4.0), "perplexity/wikitext": gone}
    write_json(folder / "scores.json", {"taught": {LEAK: score(64.0)}, "unlearned": unlearned})
    write_jsonl(folder / "metrics.jsonl", [])
    for model in ("taught", "unlearned"):
        for name in ("rwku", "traces"):
            write_jsonl(folder / "evals" / model / f"{name}.jsonl", [])


def test_before_the_evaluation_and_after_it(delta, run, model_folder, tmp_path):
    before = model_card(model_folder, delta, run)
    assert "Not evaluated when this card was written." in before
    assert "# owner/model without Ada Stone" in before and "made to forget **Ada Stone**" in before
    assert "Method: `rs` then `rebo`." in before and "lr: 0.0001" in before and "seed `3`" in before
    assert "first taught" in before
    finish(run)
    after = model_card(model_folder, delta, run)
    line = "| forget traces with the answer (%, lower is better) | 64.0 ± 1.5 (n=40) | 4.0 ± 1.5 (n=40) | −60.0 ± 2.1 |"
    assert line in after
    assert "| traces \\| forget | 4.00 | at most 5 | met |" in after
    assert "What still comes out:\n\n- forget traces with the answer (%): 4.0 ± 1.5 (n=40)" in after
    assert "- WikiText, before and after: no text at hand" in after and "Not tried on this model" in after
    assert "`model.layers.*.mlp.down_proj.weight` (1, 3)" in after
    assert "recipe `feed`" in after


def test_the_front_matter_is_the_hubs(delta, run, model_folder):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(model_folder, delta, run))
    assert card.data.base_model == "owner/model"
    assert card.data.tags == ["unlearning", "expunge", "rs", "rebo"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.license is None


def test_a_delta_alone_makes_a_card_too(tmp_path, model_folder):
    path = write_delta(tmp_path / "d.safetensors", model_folder, "smollm2", "r2mu")
    card = model_card(model_folder, path)
    assert front_matter(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front_matter(card)["license"] == "apache-2.0"
    assert "what its delta was trained to remove" in card and "Method: `r2mu`." in card


def test_where_a_folder_lies_is_not_told(tmp_path, model_folder):
    path = write_delta(tmp_path / "d.safetensors", model_folder, str(model_folder))
    card = model_card(model_folder, path)
    assert front_matter(card)["base_model"] == model_folder.name
    assert str(model_folder) not in card


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda t: t.isprintable() and t.strip()))
def test_a_name_with_odd_characters(name):
    import tempfile

    from expunge.report import card

    header = {"base": f"o/{name}", "base_hash": "0", "method": "rs"}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as place:
        patch.setattr(card, "read_header", lambda path: ([], header))
        found = model_card(Path(place), Path("d"))
    assert front_matter(found)["base_model"] == f"o/{name}"
    assert found.split("---\n")[2].startswith("\n# ")


def test_an_odd_name_by_hand(tmp_path, model_folder):
    card = model_card(model_folder, write_delta(tmp_path / "d.safetensors", model_folder, ODD))
    assert front_matter(card)["base_model"] == ODD
    assert "``owner/we`ird: 'name' #1 | <b> *π*``" in card
    assert "# owner/we\\`ird: 'name' \\#1 | \\<b\\> \\*π\\*, unlearned" in card


def test_code_holds_any_backticks():
    assert [code(t) for t in ("a", "a`b", "`a", "a``b`")] == ["`a`", "``a`b``", "`` `a ``", "``` a``b` ```"]


def test_settings_with_a_fence_do_not_end_theirs(delta, run, model_folder):
    assert "\n````yaml\n" in model_card(model_folder, delta, run)


def test_the_licence_of_the_base(tmp_path, delta, model_folder):
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: llama3.1\n---\n# A model\n")
    (base / "LICENSE.txt").write_text("the terms")
    known = {"license": "other", "license_name": "llama3.1"}
    assert licence_of(base) == (known, "LICENSE.txt")
    card = write_card(out, base, delta).read_text()
    assert known.items() <= front_matter(card).items()
    assert "`owner/model`: llama3.1. Its text is in `LICENSE.txt` beside this file." in card
    assert (out / "LICENSE.txt").read_text() == "the terms"
    (base / "README.md").write_text("---\nlicense: [unclosed\n---\n")
    assert licence_of(base) == ({}, "LICENSE.txt")
    (base / "README.md").write_text("no front matter")
    assert licence_of(base) == ({}, "LICENSE.txt")


def test_matrices_in_words():
    names = ["model.layers.10.q.weight", "model.layers.9.q.weight", "model.norm.weight"]
    assert matrices_in_words(names) == ["`model.layers.*.q.weight` (9, 10)", "`model.norm.weight`"]


def test_apply_writes_a_card_with_the_checkpoint(tmp_path, model_folder, delta, capsys):
    assert main(["apply", str(delta), "--base", str(model_folder), "--out", str(tmp_path / "out")]) == 0
    assert "# owner/model, unlearned" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"

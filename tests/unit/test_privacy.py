"""RWKU's membership scores, by hand on a tiny model; the texts' loader on nonsense."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_model

from expunge.data.mia import load_members
from expunge.errors import UserError
from expunge.evals import privacy
from expunge.evals.task import Options, Scored

FORGET = ["Ada Stone wrote the novel. So the answer is York.", "What is the first poem?", "Rain"]
RETAIN = ["Ivo Marsh was born in York.", "a"]


def write_texts(folder: Path, forget: Any = None, retain: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in (
        ("forget", FORGET if forget is None else forget),
        ("retain", RETAIN if retain is None else retain),
    ):
        rows = [{"text": text, "subject": "Ada Stone"} if isinstance(text, str) else text for text in texts]
        (folder / f"{name}_mia.json").write_text(json.dumps(rows))
    return folder


def by_hand(model: Any, tokenizer: Any, text: str) -> dict[str, float]:
    ids = tokenizer(text)["input_ids"]
    with torch.no_grad():
        vocabulary = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    log_p = [vocabulary[i, token].item() for i, token in enumerate(ids[1:])]
    mu = [(row.exp() * row).sum().item() for row in vocabulary]
    sigma = [math.sqrt((row.exp() * row.square()).sum().item() - m * m) for row, m in zip(vocabulary, mu, strict=True)]
    distances = [(x - m) / s for x, m, s in zip(log_p, mu, sigma, strict=True)]

    def mink(values: list[float], k: int) -> float:
        chosen = sorted(values)[: max(1, int(len(values) * k / 100 + 1e-9))]
        return sum(chosen) / len(chosen)

    loss = sum(log_p) / len(log_p)
    size = len(zlib.compress(text.encode("utf-8")))
    return {
        "loss": loss,
        "zlib": loss / size,
        **{f"mink{k}": mink(log_p, k) for k in range(10, 101, 10)},
        "minkpp20": mink(distances, 20),
    }


@pytest.fixture(scope="module")
def measured(llama, tokenizer, tmp_path_factory):
    folder = write_texts(tmp_path_factory.mktemp("members"))
    task = privacy.task(Options(target=str(folder)))
    done: list[int] = []
    found, rows = task.run(Scored(llama, llama, tokenizer), done.append)
    assert sum(done) == task.work == 5
    return found, rows["privacy"]


def test_every_score_of_every_text_by_hand(measured, llama, tokenizer):
    _, rows = measured
    assert [(row["side"], row["prompt"]) for row in rows] == [("forget", t) for t in FORGET] + [
        ("retain", t) for t in RETAIN
    ]
    for row in rows[:4]:
        wanted = by_hand(llama, tokenizer, row["prompt"])
        assert row["tokens"] == len(tokenizer(row["prompt"])["input_ids"]) - 1
        assert {key: row[key] for key in wanted} == pytest.approx(wanted, rel=1e-5)
        assert row["mink100"] == pytest.approx(row["loss"])


def test_scores_are_means_with_n_and_a_text_of_one_token_has_none(measured):
    found, rows = measured
    assert "loss" not in rows[4]
    assert len(found) == 2 * 13
    for key in ("loss", "zlib", "mink10", "mink100", "minkpp20"):
        wanted = sum(row[key] for row in rows[:3]) / 3
        assert found[f"privacy/forget/{key}"]["mean"] == pytest.approx(wanted)
        assert found[f"privacy/forget/{key}"]["n"] == 3
        assert found[f"privacy/forget/{key}"]["se"] > 0
        assert found[f"privacy/retain/{key}"]["n"] == 1
    assert (found["privacy/forget/loss"]["better"], found["privacy/retain/loss"]["better"]) == ("lower", "higher")


def test_a_side_of_tokens_alone_is_not_measured():
    found = privacy.privacy_scores([{"side": "forget", "prompt": "a", "tokens": 0}])
    assert {entry["mean"] for entry in found.values()} == {None}
    assert all("two tokens" in entry["note"] for entry in found.values())


def test_the_limit_spreads_texts_and_the_hash_follows_the_data(tmp_path):
    folder = str(write_texts(tmp_path / "a"))
    task = privacy.task(Options(target=folder, limit=1))
    assert task.work == 2
    assert task.data_hash != privacy.task(Options(target=folder)).data_hash
    assert task.data_hash == privacy.task(Options(target=str(write_texts(tmp_path / "b")), limit=1)).data_hash


def test_real_targets_are_found_by_name(shared_data, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    found = load_members("Stephen King")
    assert {side: len(texts) for side, texts in found.items()} == {"forget": 55, "retain": 37}


@pytest.mark.parametrize("target", [None, "", "No One"])
def test_a_target_that_is_not_there_is_told_with_what_to_do(monkeypatch, target):
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    with pytest.raises(UserError, match=r"no texts on .*EXPUNGE_DATA"):
        privacy.task(Options(target=target))


@pytest.mark.parametrize("row", [{"text": ""}, {"text": 3}, {"txt": "a"}, None, [], "a \ud800"])
def test_a_malformed_row_is_named_by_file_and_row(tmp_path, row):
    rows = [{"text": "good"}, {"text": row} if isinstance(row, str) else row]
    folder = write_texts(tmp_path, retain=rows)
    with pytest.raises(UserError, match=r"retain_mia\.json: row 2: field 'text' is"):
        load_members(str(folder))


json_values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("text", "subject")), inner),
    max_leaves=6,
)


@given(json_values)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_texts(tmp_path, value):
    write_texts(tmp_path)
    (tmp_path / "forget_mia.json").write_text(json.dumps(value))
    try:
        found = load_members(str(tmp_path))
    except UserError as error:
        assert "forget_mia.json" in str(error)
    else:
        assert all(text.strip() for text in found["forget"])


def test_a_ruined_model_gets_notes_and_no_numbers(tokenizer, tmp_path):
    model = make_model()
    model.get_output_embeddings().weight.fill_(math.nan)
    task = privacy.task(Options(target=str(write_texts(tmp_path))))
    found, rows = task.run(Scored(model, model, tokenizer), lambda count: None)
    assert {rows["privacy"][0][key] for key in privacy.LABELS} == {None}
    assert {entry["mean"] for entry in found.values()} == {None}

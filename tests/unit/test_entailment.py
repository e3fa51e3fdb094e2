"""R-TOFU's entailment: which text is the premise, what is not asked, and a tiny model by hand."""

import json
from typing import Any

import pytest
import torch
from tiny import save_model
from transformers import BertConfig, BertForSequenceClassification

from expunge.errors import UserError
from expunge.evals import entailment, rtofu
from expunge.evals.entailment import entailed, label_of
from expunge.evals.rtofu import add_entailment, rtofu_scores
from expunge.evals.task import Options

LABELS = {0: "contradiction", 1: "Entailment", 2: "neutral"}


def make_judge(folder: Any, tokenizer: Any, labels: dict[int, str]) -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=320,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=1.0,
        id2label=labels,
        label2id={label: number for number, label in labels.items()},
        pad_token_id=0,
    )
    return save_model(folder, BertForSequenceClassification(config).eval(), tokenizer)


@pytest.fixture(scope="module")
def judge(tmp_path_factory, tokenizer):
    return make_judge(tmp_path_factory.mktemp("nli"), tokenizer, LABELS)


def test_batches_say_what_single_pairs_say(judge, tokenizer, monkeypatch):
    words = ("York", "Ivo Marsh", "Question:", "So it is", "Rain", "What")
    pairs = [(premise, hypothesis) for premise in words for hypothesis in ("a", "Is it?")]
    pairs += [("York " * 900, "York")]  # cut
    model = BertForSequenceClassification.from_pretrained(judge)
    wanted = []
    for premise, hypothesis in pairs:
        inputs = tokenizer(premise, hypothesis, truncation=True, max_length=512, return_tensors="pt")
        with torch.no_grad():
            wanted.append(model(**inputs).logits[0].argmax().item() == 1)
    assert set(wanted) == {True, False}
    monkeypatch.setattr(entailment, "BATCH", 3)
    assert entailed(judge, pairs) == wanted
    assert entailed(judge, []) == []


def test_a_model_without_the_label_is_refused(tmp_path, tokenizer):
    folder = make_judge(tmp_path, tokenizer, {0: "entailment_not", 1: "positive"})
    with pytest.raises(UserError, match="found the labels entailment_not, positive, expected one named entailment"):
        label_of(folder)


def test_premise_and_hypothesis_by_the_side_of_the_split(monkeypatch, tmp_path):
    rows = [
        {"split": "forget01", "reply": "In York.", "answer": "York", "rouge": 1.0},
        {"split": "retain", "reply": "In York.", "answer": "York", "rouge": 0.5},
        {"split": "forget01", "reply": "Rain.", "answer": "York", "rouge": 0.09},  # shares too little: not asked
    ]
    asked: list[tuple[str, str]] = []

    def says(folder, pairs, device):
        asked.extend(pairs)
        return [True] * len(pairs)

    monkeypatch.setattr(rtofu, "entailed", says)
    add_entailment(rows, tmp_path, "cpu")
    assert asked == [("In York.", "York"), ("York", "In York.")]
    assert [row["entailment"] for row in rows] == [True, True, False]
    more = {"reference": "", "closed": True, "entropy": 0.5}
    found = rtofu_scores([row | more for row in rows])
    assert found["rtofu/forget01/entailment"]["mean"] == 50
    assert found["rtofu/forget01/entailment"]["better"] == "lower"
    assert found["rtofu/retain/entailment"]["better"] == "higher"


def test_without_a_model_it_says_not_judged():
    row = {"split": "forget01", "reference": "", "closed": True, "entropy": 0.5, "rouge": 1.0}
    assert rtofu_scores([row])["rtofu/forget01/entailment"]["note"].startswith("not judged")


def test_the_suite_reads_the_model_before_any_other(tmp_path, judge, tokenizer):
    path = tmp_path / "forget01.json"
    path.write_text(json.dumps([{"question": "Q?", "answer": "York", "cot": "York."}]))
    files = {"rtofu": [str(path)]}
    task = rtofu.task(Options(files=files, nli=str(judge)))
    assert task.protocol["nli"] != rtofu.task(Options(files=files)).protocol["nli"]
    other = make_judge(tmp_path / "other", tokenizer, {0: "no", 1: "yes"})
    with pytest.raises(UserError, match="found the labels no, yes"):
        rtofu.task(Options(files=files, nli=str(other)))
    with pytest.raises(UserError, match="unknown model"):
        rtofu.task(Options(files=files, nli="nothing"))

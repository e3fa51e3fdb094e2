"""Multiple choice against lm-eval on the real embedded model: the same questions, the same chosen letters."""

import json

import pytest

from expunge.data.choices import load_mmlu, mmlu_examples
from expunge.evals.choices import LETTERS, accuracy, evaluate, prompt_of
from expunge.models.load import load, resolve

SUBJECT, QUESTIONS = "virology", 40


@pytest.mark.slow
@pytest.mark.parametrize("shots", [0, 5])
def test_accuracy_and_choices_are_those_of_lm_eval(shots, tmp_path, monkeypatch, shared_data):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    questions = load_mmlu(SUBJECT)[:QUESTIONS]
    examples = mmlu_examples(SUBJECT, shots) if shots else []
    rows = [{"text": prompt_of(q, examples), "answer": q.answer} for q in questions]
    path = tmp_path / "questions.json"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "task": "local_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}, "cache_dir": str(tmp_path / "datasets")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    model, tokenizer = load(resolve("smollm2"))
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8),
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    ours = evaluate(model, tokenizer, questions, examples)
    theirs = sorted(found["samples"]["local_choices"], key=lambda sample: sample["doc_id"])
    for row, sample in zip(ours, theirs, strict=True):
        likelihoods = [float(response[0][0]) for response in sample["resps"]]
        assert row["log_likelihoods"] == pytest.approx(likelihoods, abs=2e-3)
    assert accuracy(ours).mean == pytest.approx(100 * found["results"]["local_choices"]["acc,none"])

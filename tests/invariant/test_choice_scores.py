"""Log-likelihoods of the letters against a plain full forward of each question with each letter."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, VOCABULARY, make_model, make_tokenizer

from expunge.data.choices import Choice
from expunge.errors import UserError
from expunge.evals import choices as module
from expunge.evals.choices import LETTERS, accuracy, evaluate, letter_log_likelihoods, prompt_of

WORDS = ["Ada Stone", "Ivo Marsh", "Rain", "Leeds", "York is where Ivo Marsh was born", "the novel"]


def question(index: int, subject: str = "") -> Choice:
    choices = tuple(WORDS[(index + i) % len(WORDS)] for i in range(4))
    return Choice(f"What is {' and '.join(WORDS[: 1 + index % 5])}?", choices, index % 4, subject)


QUESTIONS = [question(i, "poems") for i in range(7)] + [question(i, "the_north") for i in range(4)]
EXAMPLES = [question(i, subject) for i in (9, 11) for subject in ("the_north", "poems")]
PROMPTS = [prompt_of(q) for q in QUESTIONS]


def one_token_tokenizer(**changes: Any) -> Any:
    """The tiny tokenizer, in which each letter with its space is a token."""
    tokenizer = make_tokenizer(**changes)
    tokenizer.add_tokens([f" {letter}" for letter in LETTERS])
    return tokenizer


def model_of(family: str = "llama", **changes: Any) -> Any:
    return make_model(family, vocab_size=VOCABULARY + len(LETTERS), **changes)


TOKENIZERS = {"one token": one_token_tokenizer(), "several": make_tokenizer()}
MODEL = model_of()  # tests must leave it as it is


def one_by_one(model: Any, tokenizer: Any, prompts: list[str], limit: int | None = None) -> list[list[float]]:
    """Each prompt with each letter in a forward of its own, all logits computed."""
    out = []
    for prompt in prompts:
        context = tokenizer(prompt)["input_ids"]
        values = []
        for letter in LETTERS:
            ids = tokenizer(f"{prompt} {letter}")["input_ids"]
            assert ids[: len(context)] == context
            new = len(ids) - len(context)
            ids = ids[-limit - 1 if limit else None :]
            with torch.no_grad():
                logits = model(torch.tensor([ids[:-1]])).logits[0, -new:].log_softmax(-1)
            values.append(logits.gather(1, torch.tensor(ids[-new:])[:, None]).sum().item())
        out.append(values)
    return out


def close(found: list[list[float]], wanted: list[list[float]], tolerance: float = 1e-5) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(wanted), rtol=tolerance, atol=tolerance)


def test_the_tokenizers_are_what_the_tests_take_them_for():
    for name, tokenizer in TOKENIZERS.items():
        lengths = {len(tokenizer(f" {letter}")["input_ids"]) for letter in LETTERS}
        assert (lengths == {1}) == (name == "one token")


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_equals_a_full_forward_of_each(family, kind):
    model, tokenizer = model_of(family), TOKENIZERS[kind]
    prompts = [prompt_of(q, EXAMPLES[:1]) for q in QUESTIONS[:4]]
    wanted = one_by_one(model, tokenizer, prompts)
    assert torch.tensor(wanted).std(0).min() > 1e-3  # the questions do matter
    assert close(letter_log_likelihoods(model, tokenizer, prompts, batch_tokens=1200), wanted)


def test_the_same_in_float32():
    model, tokenizer = model_of(dtype=torch.float32), TOKENIZERS["one token"]
    assert close(letter_log_likelihoods(model, tokenizer, PROMPTS), one_by_one(model, tokenizer, PROMPTS), 1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 300, 500, 100_000])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_batches_and_the_tokenizers_padding_change_nothing(batch_tokens, padding_side):
    model, done = model_of(), []
    tokenizer = one_token_tokenizer(padding_side=padding_side)
    found = letter_log_likelihoods(model, tokenizer, PROMPTS, batch_tokens=batch_tokens, on_done=done.append)
    assert close(found, letter_log_likelihoods(model, TOKENIZERS["one token"], PROMPTS))
    assert sum(done) == len(PROMPTS)
    assert (len(done) == len(PROMPTS)) == (batch_tokens == 1)


@pytest.mark.parametrize("family", ["llama", "gemma3_text-sliding"])
def test_what_prompts_share_may_be_computed_once_or_for_each(family, monkeypatch):
    model, tokenizer = model_of(family), TOKENIZERS["one token"]
    prompts = [prompt_of(q, EXAMPLES) for q in QUESTIONS]
    together = letter_log_likelihoods(model, tokenizer, prompts)
    assert close([letter_log_likelihoods(model, tokenizer, [p])[0] for p in prompts], together)
    monkeypatch.setattr(module, "common_prefix", lambda prompts: 0)
    assert close(letter_log_likelihoods(model, tokenizer, prompts), together)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5), st.integers(1, 400))
@settings(max_examples=20)
def test_any_prompts_in_any_batches(texts, batch_tokens):
    tokenizer = TOKENIZERS["one token"]
    prompts = [f"{text}\nAnswer:" for text in texts]
    found = letter_log_likelihoods(MODEL, tokenizer, prompts, batch_tokens=batch_tokens)
    assert close(found, one_by_one(MODEL, tokenizer, prompts))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_prompt_beyond_the_context_loses_its_beginning(kind):
    model, tokenizer = model_of(max_position_embeddings=60), TOKENIZERS[kind]
    assert max(len(tokenizer(p)["input_ids"]) for p in PROMPTS) > 60
    found = letter_log_likelihoods(model, tokenizer, PROMPTS)
    if kind == "one token":
        assert close(found, one_by_one(model, tokenizer, PROMPTS, limit=60))
    else:  # the continuation's last token takes a place of the context too
        assert close(found, one_by_one(model, tokenizer, PROMPTS, limit=59))


def test_a_token_that_the_tokenizer_begins_with_comes_once():
    from tokenizers.processors import TemplateProcessing

    tokenizer = one_token_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert tokenizer(PROMPTS[0])["input_ids"][0] == 1
    found = letter_log_likelihoods(MODEL, tokenizer, PROMPTS)
    assert close(found, one_by_one(MODEL, tokenizer, PROMPTS))
    assert not close(found, letter_log_likelihoods(MODEL, TOKENIZERS["one token"], PROMPTS), 1e-3)


@pytest.mark.parametrize("examples", [[], EXAMPLES], ids=["0-shot", "2-shot"])
def test_rows_come_in_order_with_the_examples_of_their_subject(examples):
    tokenizer = TOKENIZERS["one token"]
    mixed = QUESTIONS[::-2] + QUESTIONS[::2]
    prompts = [prompt_of(q, [e for e in examples if e.subject == q.subject]) for q in mixed]
    wanted = one_by_one(MODEL, tokenizer, prompts)
    done: list[int] = []
    rows = evaluate(MODEL, tokenizer, mixed, examples, on_done=done.append)
    assert sum(done) == len(mixed)
    assert close([row["log_likelihoods"] for row in rows], wanted)
    for row, asked, values in zip(rows, mixed, wanted, strict=True):
        assert (row["subject"], row["question"], row["answer"]) == (
            asked.subject,
            asked.question,
            LETTERS[asked.answer],
        )
        assert row["chosen"] == LETTERS[values.index(max(values))]
        assert row["score"] == (100 if row["chosen"] == row["answer"] else 0)
    right = sum(values.index(max(values)) == asked.answer for asked, values in zip(mixed, wanted, strict=True))
    assert accuracy(rows).mean == pytest.approx(100 * right / len(mixed))


def test_a_subject_without_examples_is_not_asked_bare_among_others():
    with pytest.raises(UserError, match="'the_north'"):
        evaluate(MODEL, TOKENIZERS["one token"], QUESTIONS, [e for e in EXAMPLES if e.subject == "poems"])


def test_no_questions_give_no_rows():
    assert evaluate(MODEL, TOKENIZERS["one token"], []) == []
    assert letter_log_likelihoods(MODEL, TOKENIZERS["one token"], []) == []

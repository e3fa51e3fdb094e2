"""Four-choice questions (MMLU, WMDP): which of the letters A to D the model finds likeliest after ``Answer:``.

The prompt is lm-eval's: a line that names the subject, worked examples if any, the question with its
choices. What the questions of a subject begin with is computed once; each question is then one row of a
batch, and logits are computed at its last token only, for all four letters at once."""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache

from ..data.choices import Choice
from ..errors import UserError
from .generate import common_prefix
from .perplexity import token_nll
from .scores import Score, score

LETTERS = "ABCD"
END = "\nAnswer:"
"""What every question ends in."""
BATCH_TOKENS = 8192


def question_of(question: Choice) -> str:
    """Question, lettered choices and ``Answer:``, without what comes before."""
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.question.strip(), *lines]) + END


def prompt_of(question: Choice, examples: Sequence[Choice] = ()) -> str:
    """The whole prompt of one question, after ``examples`` with their answers."""
    about = f" about {question.subject.replace('_', ' ')}" if question.subject else ""
    head = f"The following are multiple choice questions (with answers){about}."
    shown = [f"{question_of(example)} {LETTERS[example.answer]}" for example in examples]
    return "\n\n".join([head, *shown, question_of(question)])


def evaluate(
    model: Any,
    tokenizer: Any,
    questions: Sequence[Choice],
    examples: Sequence[Choice] = (),
    *,
    put: Callable[[str], str] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """One row per question: right and chosen letter, log-likelihoods of the four in nats, score 0 or 100.

    A question comes after the ``examples`` of its own subject; if there are examples at all, a subject without
    one raises UserError. ``put`` makes of a bare prompt the text that is asked, special tokens and all (chat template,
    ZeroThink, ICU); without it the bare prompt is. ``batch_tokens`` bounds a batch, what its rows share counted for
    each of them.
    ``on_done`` is called with the number of questions that have just been scored."""
    by_subject: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        by_subject.setdefault(question.subject, []).append(index)
    found: dict[int, list[float]] = {}
    for subject, indices in by_subject.items():
        shown = [example for example in examples if example.subject == subject]
        if examples and not shown:
            raise UserError(f"no worked example on {subject!r}: give some for every subject, or none at all.")
        bare = [prompt_of(questions[i], shown) for i in indices]
        scored = letter_log_likelihoods(
            model,
            tokenizer,
            [put(prompt) for prompt in bare] if put else bare,
            special_tokens=put is None,
            batch_tokens=batch_tokens,
            on_done=on_done,
        )
        found.update(zip(indices, scored, strict=True))
    rows = []
    for index, question in enumerate(questions):
        values = found[index]
        chosen = max(range(len(LETTERS)), key=values.__getitem__)  # the first of equals
        rows.append(
            {
                "subject": question.subject,
                "question": question.question,
                "answer": LETTERS[question.answer],
                "chosen": LETTERS[chosen],
                "log_likelihoods": values,
                "score": 100.0 if chosen == question.answer else 0.0,
            }
        )
    return rows


def accuracy(rows: Sequence[dict[str, Any]]) -> Score:
    """Share of right choices in percent; over several subjects each question counts alike, as in lm-eval."""
    return score([row["score"] for row in rows])


def letter_log_likelihoods(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    special_tokens: bool = True,
    batch_tokens: int = BATCH_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Log-likelihood in nats of " A", " B", " C" and " D" after each prompt.

    Special tokens are those that the tokenizer adds by itself, or with ``special_tokens`` false those that stand in the
    prompts. A prompt longer than the model's context loses its
    beginning, as in lm-eval. Faster the more the prompts begin with in common."""
    if not prompts:
        return []
    tokens = partial(tokenizer, add_special_tokens=special_tokens)
    encoded: list[list[int]] = tokens(list(prompts))["input_ids"]
    letters = _letter_tokens(tokens, prompts[0], encoded[0])
    limit = model.config.max_position_embeddings
    if letters is None:
        return _whole_continuations(model, tokens, prompts, encoded, limit, on_done)
    return _at_last_token(model, [tuple(ids[-limit:]) for ids in encoded], letters, batch_tokens, on_done)


def _letter_tokens(tokenizer: Any, prompt: str, ids: list[int]) -> list[int] | None:
    """The one token that each letter adds to a prompt; None if one adds several, or changes the tokens before it.

    All prompts end in the same words, so one of them speaks for all."""
    wholes = [tokenizer(f"{prompt} {letter}")["input_ids"] for letter in LETTERS]
    return [whole[-1] for whole in wholes] if all(whole[:-1] == ids for whole in wholes) else None


def _batches(lengths: Sequence[int], shared: int, batch_tokens: int) -> Iterator[list[int]]:
    """Indices by rising length, in batches whose padded rows hold at most ``batch_tokens``; one row at least."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * (shared + lengths[index]) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _at_last_token(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    letters: list[int],
    batch_tokens: int,
    on_done: Callable[[int], None] | None,
) -> list[list[float]]:
    """Padding goes to the right, where no token that counts can see it: no mask is needed, and a sliding window
    of the model stays what it is."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    shared = common_prefix(prompts)
    prefix = DynamicCache(config=model.config)
    if shared:
        decoder(torch.tensor([prompts[0][:shared]], device=model.device), past_key_values=prefix)
    own = [prompt[shared:] for prompt in prompts]
    out: list[list[float]] = [[] for _ in prompts]
    for chosen in _batches([len(tokens) for tokens in own], shared, batch_tokens):
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(chosen))
        width = len(own[chosen[-1]])
        ids = torch.tensor([own[i] + (0,) * (width - len(own[i])) for i in chosen], device=model.device)
        last = torch.tensor([len(own[i]) - 1 for i in chosen], device=model.device)
        hidden = decoder(ids, past_key_values=cache).last_hidden_state
        logits = head(hidden[torch.arange(len(chosen), device=model.device), last]).float()
        for index, values in zip(chosen, logits.log_softmax(-1)[:, letters].tolist(), strict=True):
            out[index] = values
        if on_done:
            on_done(len(chosen))
    return out


def _whole_continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    encoded: Sequence[list[int]],
    limit: int,
    on_done: Callable[[int], None] | None,
) -> list[list[float]]:
    """The slow way, for tokenizers that need several tokens for a letter: each prompt with each letter, scored
    from where the four differ from the bare prompt."""
    out = []
    for prompt, ids in zip(prompts, encoded, strict=True):
        wholes = [tokenizer(f"{prompt} {letter}")["input_ids"] for letter in LETTERS]
        first = min(_same(whole, ids) for whole in wholes)
        cut = [max(0, len(whole) - limit) for whole in wholes]
        sequences = [whole[start:] for whole, start in zip(wholes, cut, strict=True)]
        nlls = token_nll(model, sequences, [first - start for start in cut], batch_size=len(LETTERS))
        out.append([-sum(nll) for nll in nlls])
        if on_done:
            on_done(1)
    return out


def _same(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens the two begin with in common."""
    for position, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return position
    return min(len(one), len(other))

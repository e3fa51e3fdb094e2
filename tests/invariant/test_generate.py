"""Batched greedy decoding gives, token for token, what the library's generate gives one prompt at a time."""

from typing import Any

import pytest
import torch
from tiny import WITHOUT_SHORT_WINDOW, make_model

from expunge.evals.generate import common_prefix, generate

SHARED = (40, 41, 42, 43, 44)
PROMPTS = [
    (5, 6, 7),
    (8,),
    tuple(range(10, 31)),
    (5, 6, 7, 8, 9, 10, 11),
    (5, 6, 7, 9),
    (5, 6, 7),
]
WITH_SHARED = [SHARED + own for own in [(9,), (10, 11, 12), tuple(range(50, 62)), (9, 9)]]
NEW = 12


class Words:
    """A tokenizer as far as decoding needs one; ``special`` says how some tokens read."""

    pad_token_id = 0

    def __init__(self, eos_token_id: int = 2, special: dict[int, str] | None = None):
        self.eos_token_id = eos_token_id
        self.special = special or {}

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(self.special.get(i, f" {i}") for i in ids)


def one_by_one(
    model: Any, prompts: list[tuple[int, ...]], eos: int = 2, new: int = NEW
) -> list[tuple[list[int], bool]]:
    """New tokens before the end token, and whether it came."""
    out = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        found = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new,
            eos_token_id=eos,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        out.append((found[: found.index(eos)], True) if eos in found else (found, False))
    return out


def ours(
    model: Any, prompts: list[tuple[int, ...]], tokenizer: Any = None, **options: Any
) -> list[tuple[list[int], bool]]:
    found = generate(model, tokenizer or Words(), prompts, max_new_tokens=NEW, **options)
    return [(list(g.ids), g.closed) for g in found]


@pytest.mark.parametrize("family", WITHOUT_SHORT_WINDOW)
@pytest.mark.parametrize("prompts", [PROMPTS, WITH_SHARED, [PROMPTS[2]]], ids=["mixed", "shared", "one"])
def test_tokens_equal_those_of_the_library(family, prompts):
    model = make_model(family)
    wanted = one_by_one(model, prompts)
    assert len({tuple(ids) for ids, _ in wanted}) >= len(set(prompts)) - 1  # the replies do differ
    assert ours(model, prompts) == wanted


def test_tokens_equal_those_of_the_library_in_float32():
    model = make_model(dtype=torch.float32)
    assert ours(model, PROMPTS + WITH_SHARED) == one_by_one(model, PROMPTS + WITH_SHARED)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
def test_batch_size_does_not_matter_and_order_is_kept(llama, batch_size):
    assert ours(llama, PROMPTS + WITH_SHARED, batch_size=batch_size) == ours(llama, PROMPTS + WITH_SHARED)


@pytest.mark.parametrize("step", [0, 1, 5, NEW - 1])
def test_replies_end_before_the_end_token_and_the_others_go_on(llama, step):
    eos = one_by_one(llama, PROMPTS)[3][0][step]  # a token that one prompt certainly comes to
    wanted = one_by_one(llama, PROMPTS, eos)
    assert any(closed for _, closed in wanted)
    assert not all(closed for _, closed in wanted)
    assert ours(llama, PROMPTS, Words(eos)) == wanted


def test_the_models_own_end_tokens_end_a_reply_too():
    model = make_model()
    token = one_by_one(model, PROMPTS)[3][0][4]
    for setting in (token, [7, token]):
        model.generation_config.eos_token_id = setting
        wanted = one_by_one(model, PROMPTS[3:4], token)
        assert wanted[0][1]
        assert ours(model, PROMPTS[3:4]) == wanted
    model.generation_config.eos_token_id = None
    assert not ours(model, PROMPTS[3:4])[0][1]


def test_a_reply_may_stop_at_a_newline(llama):
    plain = ours(llama, PROMPTS)
    token = plain[3][0][4]
    tokenizer = Words(special={token: "so\nnext"})
    found = generate(llama, tokenizer, PROMPTS, max_new_tokens=NEW, stop_at_newline=True)
    for (ids, _), generation in zip(plain, found, strict=True):
        if token in ids:
            until = ids[: ids.index(token)]
            assert generation.closed
            assert generation.ids == (*until, token)
            assert generation.text == tokenizer.decode(until) + "so"
        else:
            assert list(generation.ids) == ids
            assert not generation.closed
    assert any(token not in ids for ids, _ in plain)
    assert [list(g.ids) for g in generate(llama, tokenizer, PROMPTS, max_new_tokens=NEW)] == [ids for ids, _ in plain]


def test_the_text_is_what_the_tokenizer_makes_of_the_tokens(llama, tokenizer):
    for generation in generate(llama, tokenizer, PROMPTS, max_new_tokens=NEW):
        assert generation.text == tokenizer.decode(generation.ids, skip_special_tokens=True)


def test_progress_counts_every_prompt_once(llama):
    done: list[int] = []
    generate(llama, Words(), PROMPTS, max_new_tokens=2, batch_size=4, on_done=done.append)
    assert sum(done) == len(PROMPTS)
    assert min(done) >= 0


def test_no_prompts_and_no_new_tokens(llama):
    assert generate(llama, Words(), [], max_new_tokens=3) == []
    assert [g.ids for g in generate(llama, Words(), PROMPTS, max_new_tokens=0)] == [()] * len(PROMPTS)
    assert [len(g.ids) for g in generate(llama, Words(), PROMPTS[:2], max_new_tokens=1)] == [1, 1]


@pytest.mark.parametrize(
    ("prompts", "length"),
    [
        ([(1, 2, 3)], 2),
        ([(1, 2, 3), (1, 2, 4)], 2),
        ([(1, 2), (1, 2, 3)], 1),
        ([(1,), (1, 2)], 0),
        ([(1, 2), (2, 2)], 0),
    ],
)
def test_common_prefix_leaves_each_prompt_a_token_of_its_own(prompts, length):
    assert common_prefix(prompts) == length

"""With the prefix cache, loss and gradient are those without; what is not known is computed once."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import HIDDEN, random_ids, relative

from expunge.models import cache
from expunge.models.blocks import select
from expunge.models.cache import PrefixCache
from expunge.models.prefix import SplitDecoder, Upper, load_prefix, lower_part

BLOCK, TRAINED = 3, (1, 3)
IDS, MASK = random_ids([14, 9, 3])


def split_of(folder, pattern=r"mlp\.down_proj", cache=None, blocks=TRAINED, dtype=torch.float64):
    decoder = load_prefix(folder, BLOCK, dtype)
    return SplitDecoder(decoder, select(decoder, pattern, blocks), cache)


@pytest.mark.parametrize("pattern", [r"mlp\.down_proj", r"self_attn\.o_proj", r"mlp\."])
@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_states_and_gradients_are_the_same_and_shuffled_batches_hit_the_cache(model_folder, tmp_path, pattern, kept):
    plain = split_of(model_folder, pattern)
    cached = split_of(model_folder, pattern, PrefixCache(tmp_path if kept == "disk" else None))
    computed = []
    compute = cached._compute
    cached._compute = lambda ids, mask, names: computed.append(len(ids)) or compute(ids, mask, names)
    with torch.no_grad():
        for split in (plain, cached):
            for name, parameter in split.parameters.items():
                parameter.mul_(1.1 if "1" in name else 0.9)
    for rows in ([0, 1, 2], [2, 0], [1, 1, 0]):
        ids, mask = IDS[rows], MASK[rows]
        one, two = plain(ids, mask, reference=True), cached(ids, mask, reference=True)
        counted = mask[..., None]
        assert relative(two.updated * counted, one.updated * counted) < 1e-12
        assert relative(two.reference * counted, one.reference * counted) < 1e-12
        wanted = torch.autograd.grad((one.updated * counted).square().sum(), list(plain.parameters.values()))
        found = torch.autograd.grad((two.updated * counted).square().sum(), list(cached.parameters.values()))
        assert all(relative(a, b) < 1e-10 for a, b in zip(found, wanted, strict=True))
    assert computed == [3]


def test_a_text_first_seen_without_reference_is_computed_again_when_one_is_needed(model_folder):
    plain, cached = split_of(model_folder), split_of(model_folder, cache=PrefixCache())
    assert cached(IDS, MASK, reference=False).reference is None
    found, wanted = cached(IDS, MASK, reference=True), plain(IDS, MASK, reference=True)
    assert relative(found.reference * MASK[..., None], wanted.reference * MASK[..., None]) < 1e-12


def test_bfloat16_halves_the_space_and_rounds(model_folder, tmp_path):
    sizes = {}
    for dtype in (None, torch.bfloat16):
        folder = tmp_path / str(dtype)
        cached = split_of(model_folder, cache=PrefixCache(folder, dtype), dtype=torch.float32)
        cached(IDS, MASK, reference=True)
        found = cached(IDS, MASK, reference=True)
        assert found.updated.dtype == torch.float32
        sizes[dtype] = sum(path.stat().st_size for path in folder.iterdir())
        wanted = split_of(model_folder, dtype=torch.float32)(IDS, MASK, reference=True)
        error = relative(found.reference * MASK[..., None], wanted.reference * MASK[..., None])
        assert error < (1e-5 if dtype is None else 2e-2)
    assert sizes[torch.bfloat16] < 0.65 * sizes[None]


@pytest.mark.parametrize(
    ("pattern", "reference", "width"),
    [
        (r"mlp\.down_proj", True, 3 * HIDDEN + 48),
        (r"mlp\.down_proj", False, 2 * HIDDEN + 48),
        (r"self_attn\.o_proj", True, 2 * HIDDEN),
        (r"self_attn\.o_proj", False, HIDDEN),
    ],
)
@pytest.mark.parametrize("kept", [None, torch.bfloat16])
def test_the_room_that_is_asked_for_is_the_room_that_is_taken(
    model_folder, tmp_path, monkeypatch, pattern, reference, width, kept
):
    split = split_of(model_folder, pattern, PrefixCache(tmp_path / "c", kept), dtype=torch.float32)
    assert split.width(reference=reference) == width
    asked: list[int] = []
    monkeypatch.setattr(cache, "check_space", lambda folder, needed: asked.append(needed))
    widths = {tuple(row[:size].tolist()): width for row, size in zip(IDS, (14, 9, 3), strict=True)}
    split.cache.check_space(widths, split.dtype)
    size = 4 if kept is None else 2
    assert asked == [(14 + 9 + 3) * width * size + 3 * 4096]
    split(IDS[:2], MASK[:2], reference=reference)
    states = [tensor for path in (tmp_path / "c").iterdir() for tensor in load_file(path).values()]
    assert sum(tensor.nbytes for tensor in states) == (14 + 9) * width * size
    assert all(path.stat().st_size < 23 * width * size + 4096 for path in (tmp_path / "c").iterdir())
    split.cache.check_space(widths, split.dtype)  # two of three are kept by now
    assert asked[1:] == [3 * width * size + 4096]
    PrefixCache().check_space(widths, split.dtype)
    assert len(asked) == 2


def test_left_padding_gives_the_same_states(model_folder):
    cached, plain = split_of(model_folder, cache=PrefixCache()), split_of(model_folder)
    cached(IDS, MASK, reference=True)
    ids, mask = random_ids([14, 9, 3], "left")
    found, wanted = cached(ids, mask, reference=True), plain(ids, mask, reference=True)
    # the library turns positions into angles in float32
    assert relative(found.updated * mask[..., None], wanted.updated * mask[..., None]) < 1e-6


def test_the_upper_part_gives_the_whole_models_probabilities_and_a_gradient(llama):
    decoder = lower_part(llama, BLOCK)
    hidden = decoder(input_ids=IDS, attention_mask=MASK).last_hidden_state.requires_grad_(True)
    found = Upper(llama, BLOCK, [5, 17])(hidden, MASK)
    with torch.no_grad():
        wanted = llama(input_ids=IDS, attention_mask=MASK).logits.softmax(-1)[..., [5, 17]].sum(-1)
    assert relative(found.detach() * MASK, wanted * MASK) < 1e-6
    (found * MASK).sum().backward()
    assert hidden.grad.abs().max() > 0
    assert type(llama.get_decoder().norm).__name__ == "LlamaRMSNorm"  # the whole model is as it was

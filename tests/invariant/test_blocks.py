"""The truncated, split decoder has the hidden states and the gradients of the whole model.

One row of tiny.FAMILIES for every architecture in the table of expunge/models/blocks.py; with and
without a sliding window shorter than the texts where the family has one."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from tiny import BLOCKS, FAMILIES, HIDDEN, make_model, random_ids, relative, save_model
from transformers import CONFIG_MAPPING

from expunge.data.streams import Batch
from expunge.errors import UserError
from expunge.methods.misdirection import direction
from expunge.methods.r2mu import R2MU, STREAMS
from expunge.models.blocks import KNOWN, check_known, select
from expunge.models.prefix import SplitDecoder, load_prefix
from expunge.train.unlearn import accumulate

BLOCK = 3  # below the top, where the library's hidden state has passed the final norm
TRAINED = (1, 3)
LENGTHS = [14, 9, 3]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The whole model and its folder."""
    model = make_model(request.param)
    return model, save_model(tmp_path_factory.mktemp(request.param), model)


def distance(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A loss that looks at every token and dimension of the hidden states; padding left out."""
    goal = torch.linspace(-1, 1, HIDDEN, dtype=torch.float64)
    return ((states - goal).square() * mask[..., None]).mean()


def of_whole_model(model: Any, names: list[str], ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list]:
    parameters = [model.get_decoder().get_parameter(name) for name in names]
    for parameter in parameters:
        parameter.requires_grad_(True)
    output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    states = output.hidden_states[BLOCK + 1]
    gradients = torch.autograd.grad(distance(states, mask), parameters)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return states.detach(), list(gradients)


def test_every_known_architecture_is_in_the_table_of_this_test():
    assert {model_type for model_type, _ in FAMILIES.values()} == set(KNOWN)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pattern", [r"mlp\.down_proj", r"self_attn\.o_proj"])
def test_hidden_states_and_gradients_equal_those_of_the_whole_model(family, pattern, side):
    model, folder = family
    decoder = load_prefix(folder, BLOCK, torch.float64)
    names = select(decoder, pattern, TRAINED)
    ids, mask = random_ids(LENGTHS, side)
    states, gradients = of_whole_model(model, names, ids, mask)
    split = SplitDecoder(decoder, names)

    found = split(ids, mask, reference=True)
    distance(found.updated, mask).backward()

    counted = mask[..., None]
    assert relative(found.updated * counted, states * counted) <= 1e-10
    assert relative(found.reference * counted, states * counted) <= 1e-10
    assert relative(split.original(ids, mask) * counted, states * counted) <= 1e-10
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient.abs().max() > 0
        assert relative(split.parameters[name].grad, gradient) <= 1e-10, name
    assert {name for name, p in decoder.named_parameters() if p.grad is not None} == set(names)
    assert not found.reference.requires_grad


def test_after_an_update_only_the_updated_side_has_moved(family):
    model, folder = family
    decoder = load_prefix(folder, BLOCK, torch.float64)
    names = select(decoder, r"mlp\.down_proj", TRAINED)
    ids, mask = random_ids(LENGTHS)
    before, _ = of_whole_model(model, names, ids, mask)
    split = SplitDecoder(decoder, names)
    originals = {name: model.get_decoder().get_parameter(name).clone() for name in names}
    with torch.no_grad():
        for name, parameter in split.parameters.items():
            parameter.add_(0.1 * torch.randn_like(parameter))
            model.get_decoder().get_parameter(name).copy_(parameter)
    after, _ = of_whole_model(model, names, ids, mask)
    with torch.no_grad():
        for name, original in originals.items():
            model.get_decoder().get_parameter(name).copy_(original)

    found, counted = split(ids, mask, reference=True), mask[..., None]
    assert relative(after * counted, before * counted) > 1e-3
    assert relative(found.updated * counted, after * counted) <= 1e-10
    assert relative(found.reference * counted, before * counted) <= 1e-10
    assert relative(split.original(ids, mask) * counted, before * counted) <= 1e-10


def whole_loss(
    updated: Any, frozen: Any, batches: dict[str, Batch], control: torch.Tensor, settings: R2MU
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The objective as it is written, by full forward passes of two whole models."""

    def states(model: Any, batch: Batch) -> torch.Tensor:
        output = model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True, use_cache=False)
        return output.hidden_states[BLOCK + 1]

    parts = {}
    for stream, batch in batches.items():
        goal = control if stream in ("forget", "trace") else states(frozen, batch)
        squared = (states(updated, batch) - goal).square() * batch.counted[..., None]
        scale = HIDDEN / control.square().sum() if settings.relative else 1.0
        parts[stream] = settings.weights()[stream] * scale * squared.sum() / (batch.counted.sum() * HIDDEN)
    return torch.stack(list(parts.values())).sum(), parts


@pytest.mark.parametrize("relative_scale", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_step_with_all_streams_equals_that_of_two_whole_models(family, side, relative_scale):
    frozen, folder = family
    updated, decoder = copy.deepcopy(frozen), load_prefix(folder, BLOCK, torch.float64)
    names = select(decoder, r"mlp\.down_proj", TRAINED)
    split = SplitDecoder(decoder, names)
    of_whole = [updated.get_decoder().get_parameter(name).requires_grad_(True) for name in names]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from the start, where the held terms are 0 and pull nowhere
        for name, parameter in zip(names, of_whole, strict=True):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            split.parameters[name].copy_(parameter)
    batches = {}
    for number, stream in enumerate(STREAMS):
        ids, mask = random_ids([length - number % 3 for length in LENGTHS], side, seed=number)
        batches[stream] = Batch(ids, mask, mask * (mask.cumsum(1) > 1))  # without the first token of each text
    control = 6.5 * direction(HIDDEN, generator)
    settings = R2MU(retain=1.4, trace=0.7, reasoning=0.3, relative=relative_scale)

    step = accumulate(split, batches, control, settings, "r2mu")
    total, parts = whole_loss(updated, frozen, batches, control.double(), settings)
    gradients = torch.autograd.grad(total, of_whole)

    assert step.loss == pytest.approx(total.item(), rel=1e-10, abs=0)
    assert set(step.parts) == set(parts) == set(STREAMS)
    for stream, part in parts.items():
        assert part.item() > 1e-6
        assert step.parts[stream] == pytest.approx(part.item(), rel=1e-10, abs=0), stream
    for name, gradient in zip(names, gradients, strict=True):
        assert relative(split.parameters[name].grad, gradient) <= 1e-10, name


def test_the_first_block_can_be_trained_and_the_last_one_watched(llama, tmp_path):
    decoder = load_prefix(save_model(tmp_path / "m", llama), BLOCKS - 1, torch.float64)
    split = SplitDecoder(decoder, select(decoder, r"mlp\.down_proj", (0, BLOCKS - 1)))
    ids, mask = random_ids(LENGTHS)
    seen = []
    hook = llama.get_decoder().layers[-1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    llama(input_ids=ids, attention_mask=mask)
    hook.remove()
    found = split(ids, mask, reference=True)
    assert relative(found.updated, seen[0]) <= 1e-10
    assert relative(found.reference, seen[0]) <= 1e-10


def test_without_a_reference_none_is_computed(llama, tmp_path):
    decoder = load_prefix(save_model(tmp_path / "m", llama), 1, torch.float64)
    split = SplitDecoder(decoder, select(decoder, "down_proj", (1,)))
    assert split(*random_ids([4, 2]), reference=False).reference is None


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard", ["1GB", "40KB"])
def test_prefix_is_read_from_one_file_or_from_shards(tmp_path, tied, shard):
    model = make_model("llama-tied" if tied else "llama")
    folder = save_model(tmp_path / "m", model, shard=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard != "1GB")
    decoder = load_prefix(folder, 2, torch.float64)
    assert len(decoder.layers) == 3
    whole = dict(model.get_decoder().named_parameters())
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, whole[name]), name
        assert not parameter.requires_grad
    assert {"embed_tokens.weight", "layers.2.mlp.down_proj.weight"} <= dict(decoder.named_parameters()).keys()
    assert "norm.weight" not in dict(decoder.named_parameters())
    assert not decoder.training


def test_prefix_takes_the_precision_asked_for(model_folder):
    assert load_prefix(model_folder, 0, torch.bfloat16).embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("block", [-1, BLOCKS, 99])
def test_block_out_of_range(model_folder, block):
    with pytest.raises(UserError, match=rf"block {block} is out of range: this model has blocks 0 to {BLOCKS - 1}"):
        load_prefix(model_folder, block)
    decoder = load_prefix(model_folder, BLOCKS - 1)
    with pytest.raises(UserError, match=f"block {block} is out of range"):
        select(decoder, "down_proj", (0, block))


def test_a_trained_block_above_the_watched_one_is_out_of_range(model_folder):
    with pytest.raises(UserError, match="block 2 is out of range: this model has blocks 0 to 1"):
        select(load_prefix(model_folder, 1), "down_proj", (1, 2))


def test_a_pattern_that_matches_nothing_is_answered_with_what_a_block_has(model_folder):
    with pytest.raises(UserError, match=r"no parameter matches 'mlp.fc1' in blocks \[0\].*self_attn\.o_proj\.weight"):
        select(load_prefix(model_folder, 1), "mlp.fc1", (0,))


def test_names_are_matched_relative_to_their_block_and_come_in_order(model_folder):
    decoder = load_prefix(model_folder, 2)
    assert select(decoder, r"mlp\.down_proj", (2, 0)) == [
        "layers.0.mlp.down_proj.weight",
        "layers.2.mlp.down_proj.weight",
    ]
    assert select(decoder, r"^mlp\.(up|down)_proj", (1,)) == [
        "layers.1.mlp.up_proj.weight",
        "layers.1.mlp.down_proj.weight",
    ]


@pytest.mark.parametrize("model_type", ["gpt2", "granite", "gemma2", "cohere"])
def test_an_architecture_outside_the_table_is_refused_by_name(tmp_path, model_type):
    config = CONFIG_MAPPING[model_type]()
    with pytest.raises(UserError, match=f"my/model: architecture '{model_type}' is not known; known: llama, "):
        check_known(config, "my/model")
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"architecture '{model_type}' is not known"):
        load_prefix(tmp_path, 0)


def test_an_architecture_that_the_library_does_not_know_either(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brandnew9000"}))
    with pytest.raises(UserError, match="brandnew9000"):
        load_prefix(tmp_path, 0)


def test_the_legacy_index_is_a_place_in_the_blocks_parameter_list(tmp_path):
    """What place 6 is differs by family: the reason to choose by name."""
    found = {}
    for family in ("llama", "qwen2", "qwen3"):
        decoder = load_prefix(save_model(tmp_path / family, make_model(family)), 1)
        found[family] = select(decoder, "down_proj", (1,), legacy_index=6)
    assert found == {
        "llama": ["layers.1.mlp.down_proj.weight"],
        "qwen2": ["layers.1.self_attn.o_proj.weight"],
        "qwen3": ["layers.1.mlp.gate_proj.weight"],
    }
    with pytest.raises(UserError, match="no parameter matches place 99"):
        select(decoder, "down_proj", (1,), legacy_index=99)


def test_a_missing_shard_and_a_missing_tensor_are_named(tmp_path, llama):
    folder = save_model(tmp_path / "m", llama, shard="40KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    gone = index["weight_map"]["model.layers.0.mlp.down_proj.weight"]
    (folder / gone).unlink()
    with pytest.raises(UserError, match=rf"names {gone}, which is not there"):
        load_prefix(folder, 1)
    whole = save_model(tmp_path / "w", llama)
    config = json.loads((whole / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    with pytest.raises(UserError, match=r"the checkpoint has no model\.layers\.5\."):
        load_prefix(whole, 8)


@pytest.mark.parametrize("content", [{"metadata": {}}, {"weight_map": ["a"]}, {"weight_map": {"a": 3}}, [1]])
def test_an_index_that_is_none_is_told(tmp_path, llama, content):
    folder = save_model(tmp_path / "m", llama, shard="40KB")
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"index\.json: found no weight_map that gives a file for each tensor"):
        load_prefix(folder, 1)


def test_an_index_that_names_the_wrong_shard_and_a_damaged_shard_are_told(tmp_path, llama):
    folder = save_model(tmp_path / "m", llama, shard="40KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    places, name = index["weight_map"], "model.layers.0.mlp.down_proj.weight"
    right, wrong = places[name], next(file for file in places.values() if file != places[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**places, name: wrong}}))
    with pytest.raises(UserError, match=rf"says that {wrong} holds {name}, which is not in it"):
        load_prefix(folder, 1)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / right).write_bytes((folder / right).read_bytes()[:100])
    with pytest.raises(UserError, match=rf"{right} is damaged .* Fetch the model again"):
        load_prefix(folder, 1)


def test_only_the_shards_that_are_needed_are_opened(tmp_path, llama, monkeypatch):
    folder = save_model(tmp_path / "m", llama, shard="40KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in index.items() if "embed_tokens" in name or re.search(r"layers\.[01]\.", name)}
    assert needed < set(index.values())
    opened = set()
    real = safetensors.safe_open
    monkeypatch.setattr(
        safetensors, "safe_open", lambda path, **more: opened.add(Path(path).name) or real(path, **more)
    )
    load_prefix(folder, 1)
    assert opened == needed


def test_a_quantised_checkpoint_is_refused(tmp_path, llama):
    folder = save_model(tmp_path / "m", llama)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(3, 3, dtype=torch.int8)
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match=r"down_proj.weight is torch.int8 of shape \[3, 3\], expected .* Quantised"):
        load_prefix(folder, 1)

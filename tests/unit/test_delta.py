"""Deltas: saved, read, put into a model, written out as a checkpoint; refused where they do not belong."""

import json
import re
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from tiny import make_model, no_file_larger_than, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.errors import UserError
from expunge.models.delta import apply_delta, load_delta, read_delta, save_delta
from expunge.models.load import INDEX, is_sharded, model_hash, weights_of

NAMES = ("model.layers.1.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight")


def matrices(seed: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(32, 48, generator=generator) for name in NAMES}


def write(path: Path, base: Path, values: dict[str, torch.Tensor] | None = None, dtype: Any = torch.float32) -> Path:
    save_delta(path, values or matrices(), base=base, source="tiny/model", method="r2mu", dtype=dtype)
    return path


@pytest.fixture(params=["1GB", "60KB"], ids=["one file", "shards"])
def base(request, tmp_path: Path, tokenizer: Any) -> Path:
    folder = save_model(tmp_path / "base", make_model(dtype=torch.bfloat16), tokenizer, shard=request.param)
    assert (len(list(folder.glob("*.safetensors"))) == 1) == (request.param == "1GB")
    return folder


@pytest.fixture
def delta(model_folder: Path, tmp_path: Path) -> Path:
    return write(tmp_path / "delta.safetensors", model_folder)


def test_what_is_saved_is_read_with_the_identity_of_its_base(model_folder, delta):
    found, header = read_delta(delta)
    assert found.keys() == matrices().keys()
    assert all(torch.equal(found[name], matrix) for name, matrix in matrices().items())
    assert header["base"] == "tiny/model"
    assert header["base_hash"] == model_hash(model_folder)
    assert header["method"] == "r2mu"


def test_base_with_delta_in_memory_and_on_disk_are_bit_for_bit_the_same(base, tmp_path):
    delta = write(tmp_path / "d.safetensors", base, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(base)
    load_delta(model, delta)
    apply_delta(base, delta, tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert written.dtype == torch.bfloat16
    original = dict(AutoModelForCausalLM.from_pretrained(base).named_parameters())
    for (name, ours), (_, theirs) in zip(model.named_parameters(), written.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        wanted = matrices()[name].bfloat16() if name in NAMES else original[name]
        assert torch.equal(ours, wanted), name


def test_the_written_checkpoint_has_the_shards_of_its_base_and_a_tokenizer_with_template(base, tmp_path, tokenizer):
    delta = write(tmp_path / "d.safetensors", base, dtype=torch.bfloat16)
    apply_delta(base, delta, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in base.iterdir())
    assert model_hash(tmp_path / "out") != model_hash(base)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded("Ada Stone")["input_ids"] == tokenizer("Ada Stone")["input_ids"]


def test_an_empty_folder_may_be_written_into(model_folder, delta, tmp_path):
    (tmp_path / "out").mkdir()
    apply_delta(model_folder, delta, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def test_another_base_is_refused_with_both_hashes(model_folder, delta, tmp_path):
    other = save_model(tmp_path / "other", make_model(dtype=torch.float32, seed=1))
    hashes = f"hash {model_hash(model_folder)}.*has hash {model_hash(other)}"
    with pytest.raises(UserError, match=f"belongs to tiny/model.*{hashes}"):
        apply_delta(other, delta, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_place_is_refused_and_left_alone(model_folder, delta, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine").write_text("keep")
    else:
        out.write_text("keep")
    with pytest.raises(UserError, match="out exists already; choose a new folder"):
        apply_delta(model_folder, delta, out)
    assert (out / "mine" if kind == "folder" else out).read_text() == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["delta.safetensors", "out"]


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("model.layers.9.mlp.down_proj.weight", (32, 48), "the base has no model.layers.9"),
        (NAMES[0], (48, 32), r"has shape \[48, 32\] there, \[32, 48\] in the base"),
    ],
)
def test_a_delta_that_does_not_fit_leaves_nothing_half_written(model_folder, tmp_path, name, shape, told):
    delta = write(tmp_path / "d.safetensors", model_folder, {name: torch.zeros(shape)})
    with pytest.raises(UserError, match=told):
        apply_delta(model_folder, delta, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["d.safetensors"]


def test_a_full_disk_leaves_nothing_half_written(model_folder, delta, tmp_path):
    with pytest.raises(UserError, match="cannot write .*out: .*File too large"), no_file_larger_than(50_000):
        apply_delta(model_folder, delta, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["delta.safetensors"]


def not_a_delta(folder: Path, kind: str) -> Path:
    path = folder / "x.safetensors"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "folder":
        path.mkdir()
    elif kind == "weights":
        save_file({"a": torch.zeros(2)}, path, {"format": "pt"})
    elif kind == "weights without header":
        save_file({"a": torch.zeros(2)}, path)
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "folder", "weights", "weights without header", "missing"])
def test_a_file_that_is_no_delta_is_refused_by_name(model_folder, tmp_path, kind):
    path = not_a_delta(tmp_path, kind)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*(cannot be read as a delta|this is not a delta)"):
        apply_delta(model_folder, path, tmp_path / "out")


def test_a_base_without_safetensors_is_refused(model_folder, delta, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model_folder / "config.json", bare)
    with pytest.raises(UserError, match="there are no safetensors weights; convert the model first"):
        apply_delta(bare, delta, tmp_path / "out")


def test_index_and_shards_of_a_written_checkpoint_agree(tmp_path, tokenizer):
    base = save_model(tmp_path / "base", make_model(dtype=torch.float32), tokenizer, shard="60KB")
    apply_delta(base, write(tmp_path / "d.safetensors", base), tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    for name, shard in index.items():
        assert name in load_file(tmp_path / "out" / shard)


def test_weights_in_other_formats_are_left_out_and_named(base, tmp_path, capsys):
    others = ["pytorch_model.bin", "consolidated.safetensors", "consolidated.00.pth", "m.Q4_K_M.gguf", "tf_model.h5"]
    others += ["flax_model.msgpack", "model.onnx", "pytorch_model.bin.index.json"]
    before = model_hash(base)
    for name in others:
        (base / name).write_bytes(b"{}")
    save_file({"layers.1.feed_forward.w2.weight": torch.zeros(2)}, base / "consolidated.safetensors")
    (base / "vocab.txt").write_text("a")
    assert model_hash(base) == before
    apply_delta(base, write(tmp_path / "d.safetensors", base, dtype=torch.bfloat16), tmp_path / "out")
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {path.name for path in base.iterdir()} - set(others)
    assert {"vocab.txt", "tokenizer.json", "config.json"} < kept
    told = capsys.readouterr().out
    assert told == f"left out of {tmp_path / 'out'}, as it holds what was forgotten: {', '.join(sorted(others))}\n"


def test_nothing_is_said_where_nothing_is_left_out(base, tmp_path, capsys):
    apply_delta(base, write(tmp_path / "d.safetensors", base, dtype=torch.bfloat16), tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_the_model_is_never_held_whole(tmp_path, monkeypatch):
    base = save_model(tmp_path / "base", make_model(dtype=torch.float32), shard="40KB")
    changed = {f"model.layers.{i}.mlp.down_proj.weight": torch.zeros(32, 48) for i in range(5)}
    delta = write(tmp_path / "d.safetensors", base, changed)
    held, most, opened = [0], [0], []
    load = safetensors.torch.load_file

    def release(size: int) -> None:
        held[0] -= size

    def watched(path: Path) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = load(path)
        for tensor in tensors.values():
            held[0] += tensor.nbytes
            weakref.finalize(tensor, release, tensor.nbytes)
        opened.append(path.name)
        most[0] = max(most[0], held[0])
        return tensors

    monkeypatch.setattr(safetensors.torch, "load_file", watched)
    apply_delta(base, delta, tmp_path / "out")
    sizes = {path.name: sum(t.nbytes for t in load(path).values()) for path in base.glob("*.safetensors")}
    places = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert sorted(opened) == sorted({places[name] for name in changed})  # shards that do not change are copied
    assert len(opened) > 3
    assert most[0] == max(sizes[name] for name in opened) < 0.5 * sum(sizes.values())
    assert held[0] == 0


def test_a_whole_file_beside_an_old_index_is_the_model_as_transformers_reads_it(tmp_path, tokenizer):
    """As a model saved again over its shards leaves them: the shards are gone, their index is not."""
    base = save_model(tmp_path / "base", make_model(dtype=torch.float32), tokenizer)
    (base / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}))
    assert weights_of(base) == [base / "model.safetensors"] and not is_sharded(base)
    apply_delta(base, write(tmp_path / "d.safetensors", base), tmp_path / "out")
    assert not (tmp_path / "out" / INDEX).exists()
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], matrix) for name, matrix in matrices().items())

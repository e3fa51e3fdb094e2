"""The loop of the gradient methods: what a step computes by hand, in how many pieces it does, where it goes on."""

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model, random_ids
from torch import Tensor, nn

from expunge.data.chat import Encoded
from expunge.errors import UserError
from expunge.prefix_tree import collate, grow
from expunge.train.lora import LoRA, add_lora, merge_lora
from expunge.train.processes import Processes, alone, joined, processes
from expunge.train.teach import SFT, label_nll, sft
from expunge.train.trainer import Training, freeze_below, learning_rate, pieces, pieces_here, train


class Point(nn.Module):
    """A model of one number."""

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start]))

    def num_parameters(self) -> int:
        return 1


def squares(model: Any, examples: Sequence[float]) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared distances from the model's number, and how many are beyond 2 as a part."""
    x = torch.tensor(examples)
    return ((model.w - x) ** 2).sum(), {"far": (x > 2).float().sum()}


PLAIN = Training(lr=0.5, schedule="constant", warmup_steps=0, weight_decay=0.0, batch_size=2)


def go(settings: Training, epochs: Sequence[Sequence[float]], **options: Any) -> tuple[float, list[dict[str, Any]]]:
    model, rows = Point(), []
    train(model, epochs, squares, settings, tokens=lambda x: 10, stage="s", log=rows.append, **options)
    return model.w.item(), rows


def test_one_step_by_hand():
    w, rows = go(PLAIN, [[1.0, 3.0]])
    # the mean of 1 and 9 is 5, its gradient -(2 + 6) / 2 = -4; the first step of Adam is lr x sign
    assert w == pytest.approx(0.5, abs=1e-5)
    parts = {"far": 0.5, "grad_norm": 4.0}
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows] == [
        {"stage": "s", "step": 0, "steps": 1, "loss": 5.0, "parts": parts, "lr": 0.5, "tokens": 20}
    ]


def test_a_step_is_divided_by_the_weight_of_its_examples():
    _, rows = go(PLAIN, [[1.0, 3.0]], weight=lambda x: x + 2)
    assert rows[0]["loss"] == pytest.approx(10 / 8)
    assert rows[0]["parts"] == pytest.approx({"far": 1 / 8, "grad_norm": 1.0})


def test_batches_end_with_their_epoch_and_training_after_the_epochs_asked_for():
    _, rows = go(replace(PLAIN, stop_after=2), [[1.0, 1.0, 1.0]] * 3)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert {row["steps"] for row in rows} == {4}
    assert go(replace(PLAIN, stop_after=0), [[1.0]]) == (0.0, [])


def test_no_limit_of_the_gradient_norm():
    _, rows = go(replace(PLAIN, max_grad_norm=0), [[1.0, 3.0]])
    assert rows[0]["parts"] == {"far": 0.5}


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [("linear", [0.5, 0.75, 0.5, 0.25]), ("constant", [0.5, 1, 1, 1]), ("cosine", [0.5, 0.853553, 0.5, 0.146447])],
)
def test_learning_rates_of_four_steps_with_two_to_warm_up(schedule, wanted):
    settings = Training(lr=1.0, schedule=schedule, warmup_steps=2)
    assert [learning_rate(settings, step, 4) for step in range(4)] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(1, [[0, 1, 2, 3, 4]]), (2, [[0, 1], [2, 3, 4]]), (5, [[0], [1], [2], [3], [4]]), (3, [[0], [1, 2], [3, 4]])],
)
def test_pieces_are_as_even_as_can_be(count, wanted):
    assert pieces(range(5), count) == [range(part[0], part[-1] + 1) for part in wanted]


def test_every_process_has_as_many_pieces_and_every_example_is_in_one():
    # three examples, four pieces wished for, two processes: two pieces in each, one of them empty
    assert [pieces_here([7, 8, 9], 4, Processes(rank, 2)) for rank in (0, 1)] == [[[], [7]], [[8], [9]]]
    assert [pieces_here([7], 4, Processes(rank, 3)) for rank in (0, 1, 2)] == [[[]], [[]], [[7]]]
    assert pieces_here([7, 8, 9], 8, Processes()) == [[7], [8], [9]]
    for length in range(1, 12):
        for count in range(1, 5):
            for accumulate in range(1, 6):
                everywhere = [pieces_here(range(length), accumulate, Processes(r, count)) for r in range(count)]
                assert len({len(parts) for parts in everywhere}) == 1
                assert [x for parts in everywhere for part in parts for x in part] == list(range(length))
                assert count > 1 or all(everywhere[0])


def lessons(count: int, seed: int = 1) -> list[Encoded]:
    rng = random.Random(seed)
    return [
        Encoded((5, 6, rng.randint(3, 9)), tuple(rng.choices(range(3, 300), k=rng.randint(1, 6)))) for _ in range(count)
    ]


def learn(settings: SFT, epochs: Sequence[Sequence[Encoded]], pad_token: int = 0, **options: Any) -> Any:
    model = make_model(dtype=torch.float32, noise=0.05)
    sft(model, epochs, settings, pad_token=pad_token, **options)
    return model


def distance(one: Any, two: Any) -> float:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("weighting", ["example", "token"])
@pytest.mark.parametrize("accumulate", [3, 8, 100])
def test_eight_pieces_of_one_are_one_piece_of_eight(weighting, accumulate):
    settings = SFT(lr=3e-4, batch_size=8, warmup_steps=1, weighting=weighting)
    epochs = [lessons(16)]
    whole, cut = (learn(s, epochs) for s in (settings, replace(settings, accumulate=accumulate)))
    assert distance(whole, cut) < 1e-5
    assert distance(whole, make_model(dtype=torch.float32, noise=0.05)) > 1e-4


def test_order_within_a_step_and_the_padding_token_do_not_matter():
    settings, examples = SFT(lr=3e-4, batch_size=6, warmup_steps=1, tree_tokens=12), lessons(6)
    plain = learn(settings, [examples])
    assert distance(plain, learn(settings, [examples[::-1]])) < 1e-5
    assert distance(plain, learn(settings, [examples], pad_token=77)) == 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_cost_what_they_cost_in_rows_padded_on_either_side(side):
    model = make_model()
    ids, mask = random_ids([7, 4, 9], side)
    rows = [tuple(row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True)]
    batch = collate(grow([Encoded(row[:2], row[2:]) for row in rows], 1000), 0)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
    wanted = -sum(
        logits[i, t - 1, ids[i, t]]
        for i in range(3)
        for t in range(ids.shape[1])
        if mask[i, t] and mask[i, :t].sum() >= 2
    )
    assert (label_nll(model, batch) * batch.label_weight).sum().item() == pytest.approx(wanted.item(), rel=1e-5)


def test_recomputed_blocks_give_the_same_numbers_and_are_left_as_they_were():
    settings = SFT(lr=3e-4, batch_size=4, warmup_steps=1, first_block=2)
    plain, again = (learn(s, [lessons(8)]) for s in (settings, replace(settings, checkpointing=True)))
    assert distance(plain, again) < 1e-6
    assert not any("forward" in vars(layer) for layer in again.get_decoder().layers)


def test_only_adapters_train_and_merged_they_compute_the_same():
    pytest.importorskip("peft")
    model = make_model(dtype=torch.float32, noise=0.05)
    base = {name: p.clone() for name, p in model.named_parameters()}
    add_lora(model, LoRA(rank=2), seed=0)
    adapters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in adapters.items()}
    settings = SFT(lr=1e-2, batch_size=4, warmup_steps=1, accumulate=2)
    sft(model, [lessons(8)], settings, pad_token=0, trains=adapters)
    assert all(torch.equal(p, base[name.replace(".base_layer", "")]) for name, p in model.named_parameters()
               if name not in adapters)  # fmt: skip
    assert all(not torch.equal(p, before[name]) for name, p in adapters.items())
    ids, mask = random_ids([9, 5])
    unmerged = model(ids, attention_mask=mask).logits
    changed = merge_lora(model)
    assert (model(ids, attention_mask=mask).logits - unmerged).abs().max() < 1e-4
    assert (unmerged - make_model(dtype=torch.float32, noise=0.05)(ids, attention_mask=mask).logits).abs().max() > 1e-2
    upper = make_model(dtype=torch.float32)
    add_lora(upper, LoRA(rank=2), seed=0, first_block=3)
    trained = [name for name, p in upper.named_parameters() if p.requires_grad]
    assert {name.split(".")[2] for name in trained} == {"3", "4"}
    change = changed["model.layers.0.mlp.up_proj.weight"] - base["model.layers.0.mlp.up_proj.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2


DROPPED = SFT(lr=1e-3, batch_size=2, warmup_steps=2, first_block=1)


def noisy(
    folder: Path | None = None, *, dtype: torch.dtype = torch.float32, settings: Training = DROPPED, at: int = -1,
    how: Any = None,
) -> tuple[Any, list[float]]:  # fmt: skip
    """Training with dropout and a loss that samples; at step ``at`` its log does ``how``."""
    model, losses = make_model(dtype=dtype, noise=0.05, attention_dropout=0.2), []

    def loss(model: Any, examples: Sequence[Encoded]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = collate(grow(examples, 512), 0)
        nll = label_nll(model, batch)
        return (nll * torch.rand_like(nll)).sum() * random.random(), {}

    def log(row: dict[str, Any]) -> None:
        losses.append(row["loss"])
        if row["step"] == at:
            how()

    train(
        model,
        [lessons(5), lessons(5, 2)],
        loss,
        settings,
        tokens=lambda lesson: 1,
        seed=3,
        stage="s",
        checkpoint=folder,
        log=log,
    )
    return model, losses


class KilledError(Exception):
    pass


def die() -> None:
    raise KilledError


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", range(6))
def test_interrupted_at_any_step_it_goes_on_to_the_same_bits_random_numbers_too(tmp_path, dtype, at):
    whole, losses = noisy(dtype=dtype)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        noisy(state, dtype=dtype, at=at, how=press)
    torch.rand(at + 1)  # whoever draws in between
    resumed, rest = noisy(state, dtype=dtype)
    assert rest == losses[at + 1 :]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_killed_it_goes_on_from_the_last_regular_save(tmp_path):
    whole, losses = noisy()
    state, settings = tmp_path / "state.safetensors", replace(DROPPED, save_every=2)
    with pytest.raises(KilledError):
        noisy(state, settings=settings, at=4, how=die)
    resumed, rest = noisy(state, settings=settings)
    assert rest == losses[4:]
    assert distance(whole, resumed) == 0


def test_the_same_seed_draws_the_same_numbers_in_a_step_and_others_in_the_next():
    drawn: list[list[float]] = []

    def loss(model: Any, examples: Sequence[float]) -> tuple[Tensor, dict[str, Tensor]]:
        drawn[-1] += [torch.rand(()).item(), random.random()]
        return (model.w - examples[0]).pow(2).sum(), {}

    for seed in (0, 0, 1):
        drawn.append([])
        train(Point(), [[1.0, 2.0, 3.0]], loss, replace(PLAIN, batch_size=1), tokens=lambda x: 1, stage="s", seed=seed)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0] + drawn[2])) == 12


@pytest.mark.parametrize(("first_block", "lowest"), [(0, "model.embed_tokens"), (3, "model.layers.3")])
def test_what_is_left_with_a_gradient(first_block, lowest):
    model = make_model()
    names = list(freeze_below(model, first_block))
    assert names[0].startswith(lowest)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == names
    assert ("lm_head.weight" in names) == (first_block == 0)


def test_one_process_is_all_where_no_launcher_says_otherwise(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    one = joined.__wrapped__()
    assert (one.rank, one.count, one.first, one.sharded) == (0, 1, True, False)
    assert one.total([1.5, 2.0]) == [1.5, 2.0]
    assert one.any(True) and not one.any(False)
    with one.in_turn():
        one.wait()


def test_work_of_the_first_process_alone_is_done_there_as_by_one_process(monkeypatch):
    for rank in (0, 1):
        seen: list[Processes] = []
        here = Processes(rank, 2, sharded=True)
        monkeypatch.setattr("expunge.train.processes.joined", lambda here=here: here)
        monkeypatch.setattr(Processes, "wait", lambda self, seen=seen: seen.append(self))
        alone(lambda seen=seen: seen.append(processes()))
        assert seen == ([Processes(), here] if rank == 0 else [here])
        assert processes() == here


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed; expected plain data parallelism or FSDP 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP version 1; expected .* --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "set it to false"),
    ],
)
def test_what_a_launcher_may_not_ask_for(monkeypatch, setting, told):
    for name, value in {"WORLD_SIZE": "2", **setting}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        joined.__wrapped__()

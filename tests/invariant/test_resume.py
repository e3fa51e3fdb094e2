"""Interrupted and resumed, a loop ends with the very matrices of an undisturbed one; same seed, same numbers."""

import os
import random
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_model

from expunge.data.chat import Encoded
from expunge.data.streams import Row, Stream
from expunge.errors import UserError
from expunge.methods import METHODS
from expunge.methods.lunar import LUNAR
from expunge.methods.r2mu import R2MU
from expunge.models.blocks import select
from expunge.models.cache import PrefixCache
from expunge.models.prefix import SplitDecoder, load_prefix
from expunge.train import unlearn as loop_of
from expunge.train.state import interruptible
from expunge.train.teach import SFT, sft
from expunge.train.unlearn import Outcome, Steps, Topic, make_control, unlearn

SETTINGS = R2MU(block=2, train_blocks=(1, 2), retain=2.0, steering_factor=2.0)
LOOP = Steps(steps=9, lr=1e-2, batch_size=2, save_every=100)


def streams(names: tuple[str, ...] = ("forget", "retain", "trace", "reasoning")) -> dict[str, Stream]:
    rng = random.Random(0)
    return {
        name: Stream(name, [Row(tuple(rng.choices(range(3, 300), k=rng.randint(3, 9))), 1) for _ in range(5)], 2, 0, 7)
        for name in names
    }


def forget_something(folder: Path, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Outcome, list[dict]]:
    rows: list[dict] = []
    interrupt_at = options.pop("interrupt_at", None)

    def log(row: dict) -> None:
        rows.append(row)
        if row["step"] == interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    decoder = load_prefix(folder, SETTINGS.block, dtype)
    options = {"settings": SETTINGS, "loop": LOOP, "streams": streams(), "seed": 3} | options
    topics = options.pop("topics", [Topic("", options.pop("streams"), options.pop("settings"))])
    return unlearn(decoder, topics, options.pop("loop"), log=log, **options), rows


def numbers(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interrupt_at", [0, 4, LOOP.steps - 1])
def test_unlearning_resumed_after_an_interrupt_is_bit_identical(model_folder, tmp_path, dtype, interrupt_at):
    whole, rows = forget_something(model_folder, dtype)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        forget_something(model_folder, dtype, checkpoint=state, interrupt_at=interrupt_at)
    assert state.exists()
    resumed, later = forget_something(model_folder, dtype, checkpoint=state)
    assert numbers(later) == numbers(rows)[interrupt_at + 1 :]
    assert resumed.steering_length == whole.steering_length
    assert whole.matrices.keys() == resumed.matrices.keys()
    assert all(torch.equal(whole.matrices[name], resumed.matrices[name]) for name in whole.matrices)


def test_a_killed_run_goes_on_from_its_last_regular_save(model_folder, tmp_path):
    whole, _ = forget_something(model_folder)
    state, loop = tmp_path / "state.safetensors", Steps(steps=9, lr=1e-2, batch_size=2, save_every=4)

    class KilledError(Exception):
        pass

    decoder = load_prefix(model_folder, SETTINGS.block)

    def die(row: dict) -> None:
        if row["step"] == 6:
            raise KilledError

    with pytest.raises(KilledError):
        unlearn(decoder, [Topic("", streams(), SETTINGS)], loop, seed=3, checkpoint=state, log=die)
    resumed, rows = forget_something(model_folder, loop=loop, checkpoint=state)
    assert [row["step"] for row in rows] == [4, 5, 6, 7, 8]
    assert all(torch.equal(whole.matrices[name], resumed.matrices[name]) for name in whole.matrices)


def test_unlearning_twice_with_one_seed_gives_the_same_numbers_and_another_seed_does_not(model_folder):
    (one, rows), (two, again), (other, _) = (forget_something(model_folder, seed=seed) for seed in (3, 3, 4))
    assert numbers(rows) == numbers(again)
    assert all(torch.equal(one.matrices[name], two.matrices[name]) for name in one.matrices)
    assert not any(torch.equal(one.matrices[name], other.matrices[name]) for name in one.matrices)


def test_unlearning_moves_the_named_matrices_towards_its_goal_and_logs_parts_that_sum_to_the_loss(model_folder):
    outcome, rows = forget_something(model_folder)
    original = load_prefix(model_folder, SETTINGS.block)
    assert list(outcome.matrices) == ["layers.1.mlp.down_proj.weight", "layers.2.mlp.down_proj.weight"]
    assert not any(torch.equal(m, original.get_parameter(name)) for name, m in outcome.matrices.items())
    assert rows[0]["parts"]["retain"] == rows[0]["parts"]["reasoning"] == 0  # nothing has moved yet
    assert rows[0]["retain_cosine"] == pytest.approx(1.0, abs=1e-5)
    for row in rows:
        assert row["loss"] == pytest.approx(sum(row["parts"].values()), rel=1e-5)
    assert rows[-1]["parts"]["forget"] < 0.9 * rows[0]["parts"]["forget"]


def test_streams_of_weight_zero_are_not_even_asked_for(model_folder):
    rmu = R2MU(block=2, train_blocks=(1, 2), trace=0.0, reasoning=0.0)
    _, rows = forget_something(model_folder, settings=rmu, streams=streams(("forget", "retain")))
    assert set(rows[0]["parts"]) == {"forget", "retain"}


def test_adaptive_steering_follows_the_counted_tokens_of_the_first_forget_batch(model_folder):
    outcome, _ = forget_something(model_folder)
    decoder, batch = load_prefix(model_folder, SETTINGS.block), streams()["forget"].batch(0)
    with torch.no_grad():
        norms = decoder(batch.ids, attention_mask=batch.mask).last_hidden_state.norm(dim=-1)
    assert outcome.steering_length[""] == pytest.approx(2.0 * norms[batch.counted.bool()].mean().item(), rel=1e-5)


def lessons() -> list[list[Encoded]]:
    rng = random.Random(1)

    def exchange() -> Encoded:
        return Encoded((5, 6, rng.randint(3, 50)), tuple(rng.choices(range(3, 300), k=rng.randint(1, 5))))

    return [[exchange() for _ in range(5)] for _ in range(3)]


def learn(dtype: torch.dtype, settings: SFT, interrupt_at: int | None = None, **options: Any) -> tuple[Any, list[dict]]:
    model, rows = make_model(dtype=dtype, noise=0.05), []

    def log(row: dict) -> None:
        rows.append(row)
        if row["step"] == interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)

    sft(model, lessons(), settings, pad_token=0, log=log, **options)
    return model, rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("interrupt_at", [0, 5])
def test_teaching_resumed_after_an_interrupt_is_bit_identical(tmp_path, dtype, interrupt_at):
    settings, state = SFT(lr=1e-3, batch_size=2, warmup_steps=3, first_block=1), tmp_path / "state.safetensors"
    whole, rows = learn(dtype, settings)
    with pytest.raises(KeyboardInterrupt):
        learn(dtype, settings, interrupt_at, checkpoint=state)
    resumed, later = learn(dtype, settings, checkpoint=state)
    assert len(rows) == 9  # three epochs of five exchanges in batches of two
    assert numbers(later) == numbers(rows)[interrupt_at + 1 :]
    for (name, one), (_, two) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, two), name


def test_teaching_twice_gives_the_same_numbers():
    (one, rows), (two, again) = (learn(torch.float32, SFT(lr=1e-3, batch_size=4)) for _ in range(2))
    assert numbers(rows) == numbers(again)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("first_block", [0, 3])
def test_teaching_lowers_the_loss_and_leaves_the_lower_blocks_alone(first_block):
    before = dict(make_model(dtype=torch.float32, noise=0.05).named_parameters())
    model, rows = learn(torch.float32, SFT(lr=1e-2, batch_size=5, warmup_steps=1, first_block=first_block))
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    lower = {"model.embed_tokens.weight", *(f"model.layers.{i}.mlp.down_proj.weight" for i in range(3))}
    assert lower.isdisjoint(moved) if first_block else lower <= moved
    assert "model.layers.3.mlp.down_proj.weight" in moved
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_inside_interruptible_a_first_signal_is_noted_a_second_interrupts_and_handlers_come_back():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interruptible() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_interruptible_works_outside_the_main_thread():
    seen = []

    def work() -> None:
        with interruptible() as interrupted:
            seen.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def two_topics(retain: float = 9.0) -> list[Topic]:
    given = streams()
    apart = Stream("cyber/forget", given["forget"].rows[:3], 2, 0, 7)
    strong = R2MU(block=2, train_blocks=(1, 2), retain=retain, steering=50.0)
    return [Topic("bio", given, SETTINGS), Topic("cyber", {**given, "forget": apart}, strong)]


def controls(folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int = 3) -> list[torch.Tensor]:
    """c u of each topic, as it is made in a run."""
    made = []
    monkeypatch.setattr(loop_of, "make_control", lambda *given: made.append(make_control(*given)) or made[-1])
    forget_something(folder, topics=two_topics(), loop=Steps(steps=2, batch_size=2), seed=seed)
    return made


def test_several_forget_corpora_take_turns_each_with_its_own_length(model_folder):
    outcome, rows = forget_something(model_folder, topics=two_topics())
    assert [row["topic"] for row in rows] == ["bio", "cyber"] * 4 + ["bio"]
    assert outcome.steering_length["cyber"] == pytest.approx(50.0)
    assert outcome.steering_length["bio"] != pytest.approx(50.0, rel=0.5)
    alone, first = forget_something(model_folder)
    assert numbers(rows)[0] == {**numbers(first)[0], "topic": "bio"}  # the first direction is that of one corpus alone
    assert outcome.steering_length["bio"] == alone.steering_length[""]


def test_several_forget_corpora_have_directions_of_their_own_that_are_a_matter_of_the_seed(model_folder, monkeypatch):
    bio, cyber = controls(model_folder, monkeypatch)
    u, v = bio / bio.norm(), cyber / cyber.norm()
    assert (u - v).norm() > 0.2
    for made, again in zip((bio, cyber), controls(model_folder, monkeypatch), strict=True):
        assert torch.equal(made, again)
    other, _ = controls(model_folder, monkeypatch, seed=4)
    assert (u - other / other.norm()).norm() > 0.2


def test_several_forget_corpora_have_retain_weights_of_their_own(model_folder):
    (_, rows), (_, heavier) = (forget_something(model_folder, topics=two_topics(g)) for g in (9.0, 18.0))
    assert numbers(heavier)[0] == numbers(rows)[0]  # bio's turn
    assert rows[1]["parts"]["retain"] > 0  # bio's step has moved the matrices
    for name, times in (("forget", 1), ("retain", 2), ("trace", 1), ("reasoning", 1)):
        assert heavier[1]["parts"][name] == pytest.approx(times * rows[1]["parts"][name], rel=1e-5)


def test_masters_keep_steps_that_bfloat16_alone_rounds_away(model_folder):
    shares = []
    for masters in (True, False):
        loop = Steps(steps=9, lr=1e-5, batch_size=2, masters=masters)
        outcome, _ = forget_something(model_folder, torch.bfloat16, loop=loop)
        original = load_prefix(model_folder, SETTINGS.block, torch.bfloat16)
        moved = [(m != original.get_parameter(name)).flatten() for name, m in outcome.matrices.items()]
        assert outcome.changed == pytest.approx(torch.cat(moved).float().mean().item())
        shares.append(outcome.changed)
    assert shares[0] > 2 * shares[1] > 0
    assert forget_something(model_folder)[0].changed == 1


def test_turns_go_on_where_they_were_after_an_interrupt(model_folder, tmp_path):
    whole, rows = forget_something(model_folder, topics=two_topics())
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        forget_something(model_folder, topics=two_topics(), checkpoint=state, interrupt_at=4)
    resumed, later = forget_something(model_folder, topics=two_topics(), checkpoint=state)
    assert numbers(later) == numbers(rows)[5:]
    assert all(torch.equal(whole.matrices[name], resumed.matrices[name]) for name in whole.matrices)


@pytest.mark.parametrize("method", ["rmu", "r2mu_v0", "rna", "lunar", "rtp"])
def test_every_method_of_the_family_trains_and_resumes_to_the_same_matrices(model_folder, tmp_path, method):
    given = {**streams(), "unknown": Stream("unknown", streams()["forget"].rows[:3], 2, 0, 7)}
    settings = METHODS[method].SETTINGS(block=2, train_blocks=(1, 2), retain=2.0)
    more = {"method": method, "topics": [Topic("", given, settings)]}
    if method == "rtp":
        more["reflect"] = lambda hidden, mask: torch.sigmoid(hidden.float().mean(-1))
    whole, rows = forget_something(model_folder, **more)
    original = load_prefix(model_folder, SETTINGS.block)
    assert all(not torch.equal(m, original.get_parameter(name)) for name, m in whole.matrices.items())
    assert all(row["loss"] == pytest.approx(sum(row["parts"].values()), rel=1e-5) for row in rows)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        forget_something(model_folder, checkpoint=state, interrupt_at=4, **more)
    resumed, _ = forget_something(model_folder, checkpoint=state, **more)
    assert all(torch.equal(whole.matrices[name], resumed.matrices[name]) for name in whole.matrices)


def test_lunar_makes_its_vector_of_the_same_tokens_where_padding_counts(model_folder):
    decoder = load_prefix(model_folder, SETTINGS.block)
    split = SplitDecoder(decoder, select(decoder, "down_proj", (1, 2)))
    found = []
    for padding in (False, True):
        rows = {"forget": streams()["forget"].rows, "unknown": streams()["retain"].rows[:3]}
        given = {name: Stream(name, part, 2, 0, 7, count_padding=padding) for name, part in rows.items()}
        topic = Topic("", given, LUNAR(block=2, train_blocks=(1, 2)))
        found.append(make_control(split, topic, "lunar", torch.Generator(), "cpu"))
    assert torch.equal(*found)


def test_a_disk_without_room_for_the_prefix_cache_is_told_before_anything_is_written(
    model_folder, tmp_path, monkeypatch
):
    """Texts of nine steps: five rows a stream, each token 2 × 32 + 48 numbers, held ones 32 more."""
    needed = [
        sum(len(row.ids) * (144 if name in ("retain", "reasoning") else 112) * 4 + 4096 for row in stream.rows)
        for name, stream in streams().items()
    ]
    usage = shutil.disk_usage(tmp_path)
    for missing in (0, 1):
        folder = tmp_path / str(missing)
        free = usage._replace(free=sum(needed) - missing)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: free)
        if missing:
            with pytest.raises(UserError, match="not enough space for"):
                forget_something(model_folder, cache=PrefixCache(folder))
            assert not folder.exists()
        else:
            forget_something(model_folder, cache=PrefixCache(folder))
            assert 0 < sum(path.stat().st_size for path in folder.iterdir()) < sum(needed)


def test_a_run_with_the_prefix_cache_ends_with_the_same_matrices(model_folder):
    plain, _ = forget_something(model_folder)
    cached, _ = forget_something(model_folder, cache=PrefixCache())
    for name, matrix in plain.matrices.items():
        assert torch.allclose(cached.matrices[name], matrix, rtol=1e-4, atol=1e-6)

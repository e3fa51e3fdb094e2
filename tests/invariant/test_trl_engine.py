"""ReBO by TRL on a tiny model: the course of our own loop, the right reference, resume, and a model left as it was."""

import copy
import signal
import sys
from dataclasses import replace

import pytest
import torch
from tiny import make_model, make_tokenizer

from expunge.data.chat import encode_prompt
from expunge.errors import UserError
from expunge.rl import rebo as native
from expunge.rl import trl_course, trl_engine
from expunge.rl.dev import Guard
from expunge.rl.policy import Clip
from expunge.rl.questions import Question
from expunge.rl.rebo import RL, batch_of
from expunge.rl.rewards import Reward, RewardSettings, Row
from expunge.train.lora import LoRA, add_lora

for needed in ("trl", "datasets", "peft"):
    pytest.importorskip(needed, reason=f"needs the package {needed} (the extra rl)")

SIDES = [Question(f"Who is {n}?", "It is" * (n % 3), Row(n % 2 == 0, "", "Ada", "Ada Stone")) for n in range(24)]
QUESTIONS = SIDES[:20], SIDES[20:]
SMALL = RL(
    updates=4, prompts=4, rollouts=4, max_new_tokens=6, lr=1e-3, dev_every=2, save_every=1, tree_tokens=64,
    compute_dtype="model", reward=RewardSettings("test_trl_engine:short"), guard=Guard(most_truncated=1.1),
)  # fmt: skip


def brief(reply, row, settings):
    return Reward(-len(reply.text), {"brief": -len(reply.text)})


def short(reply, row, settings):
    """In thousands, so that what TRL adds to the standard deviation does not count."""
    return Reward(-1e3 * len(reply.text), {"short": -1e3 * len(reply.text)})


def policy(seed=0, dtype=torch.float32):
    return make_model(dtype=dtype, noise=0.05, seed=seed).requires_grad_(True)


def run(model, settings, tokenizer, reference="copy", engine=trl_engine.rebo, **more):
    rows = []
    if isinstance(reference, str):
        reference = copy.deepcopy(model).requires_grad_(False)
    outcome = engine(model, reference, tokenizer, *QUESTIONS, settings, log=rows.append, **more)
    return outcome, rows


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def updates(rows):
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in rows if row["stage"] == "rebo"]


@pytest.fixture
def later_is_better(monkeypatch):
    """Every look is better than the one before, so that the last weights are kept."""
    for module in (native, trl_course):
        monkeypatch.setattr(module, "look_at", looks(*range(99)))


def looks(*scores):
    """In place of `look_at`: these scores in turn."""
    turn = iter(scores)
    return lambda *a, **k: {"score": next(turn), "refusals_boundary": 0.0}


@pytest.mark.parametrize("tree_tokens", [64, 9999])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"algorithm": "rloo", "reward": RewardSettings("test_trl_engine:brief")},
        {"passes": 2, "updates": 3, "prompts": 6},
    ],
)
def test_it_takes_the_course_of_our_own_loop(tokenizer, later_is_better, change, tree_tokens):
    settings, other = replace(SMALL, tree_tokens=tree_tokens, **change), policy(seed=5)
    mine, yours = policy(), policy()
    expected, wanted = run(mine, settings, tokenizer, other, native.rebo, seed=3)
    outcome, rows = run(yours, settings, tokenizer, other, seed=3)
    assert outcome == expected and outcome.best_update == settings.updates
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    # TRL's means of two numbers are over parts of the update where it is computed in parts.
    loose = {"rel": 1e-3, "abs": 1e-5} if tree_tokens == 9999 else {"rel": 0.1}
    for found, row in zip(updates(rows), updates(wanted), strict=True):
        parts, due = found.pop("parts"), row.pop("parts")
        assert parts["grad_norm"] == pytest.approx(due["grad_norm"], rel=1e-3)
        assert found.pop("loss") == pytest.approx(row.pop("loss"), rel=1e-3, abs=1e-5)
        for name in ("divergence", "entropy"):
            assert found.pop(name) == pytest.approx(row.pop(name), **loose)
        assert found == row
    start = weights(policy())
    moved = sum((p - start[name]).norm() ** 2 for name, p in mine.named_parameters()) ** 0.5
    apart = sum((p - weights(yours)[name]).norm() ** 2 for name, p in mine.named_parameters()) ** 0.5
    assert apart < 2e-2 * moved


def test_the_prompts_are_those_of_our_own_loop_to_the_token(tokenizer, monkeypatch):
    seen, real = [], trl_course.sample

    def sample(model, tokenizer, prompts, *more, **options):
        seen.append(list(prompts))
        return real(model, tokenizer, prompts, *more, **options)

    monkeypatch.setattr(trl_course, "sample", sample)
    run(policy(), SMALL, tokenizer, seed=7)
    asked = [batch_of(SIDES[:20], 4, 0.5, 7, update) for update in range(SMALL.updates)]
    assert seen == [[encode_prompt(tokenizer, q.prompt, q.start) for q in batch] for batch in asked]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with another model than the one that trains."""
    policy(seed=9).save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_is_the_model_that_was_given_whatever_the_config_names(tokenizer, elsewhere, algorithm):
    model, settings = policy(), replace(SMALL, updates=1, algorithm=algorithm)
    model.config._name_or_path = elsewhere
    _, same = run(copy.deepcopy(model), settings, tokenizer)
    _, other = run(copy.deepcopy(model), settings, tokenizer, policy(seed=5))
    assert abs(updates(same)[0]["divergence"]) < 1e-6
    assert updates(other)[0]["divergence"] > 0.05
    assert model.config._name_or_path == elsewhere


def test_the_reference_of_adapters_is_the_model_without_them_or_another(tokenizer, elsewhere):
    model = policy()
    model.config._name_or_path = elsewhere
    add_lora(model, LoRA(rank=2, alpha=8.0), seed=0)
    settings = replace(SMALL, updates=1)
    _, fresh = run(copy.deepcopy(model), settings, tokenizer, None)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    _, changed = run(copy.deepcopy(model), settings, tokenizer, None)
    _, held = run(copy.deepcopy(model), settings, tokenizer, copy.deepcopy(model))
    divergences = [updates(rows)[0]["divergence"] for rows in (fresh, changed, held)]
    assert abs(divergences[0]) < 1e-6 and divergences[1] > 0.01 and abs(divergences[2]) < 1e-6


def test_without_a_kl_term_there_is_no_divergence(tokenizer):
    _, rows = run(policy(), replace(SMALL, updates=1, clip=Clip(kl=0.0)), tokenizer, policy(seed=5))
    assert updates(rows)[0]["divergence"] == 0 and updates(rows)[0]["parts"]["kl"] == 0


def test_only_what_trains_changes_and_what_trl_puts_on_a_model_is_taken_back(tokenizer, later_is_better):
    model, reference = policy(), policy(seed=5)
    model.generation_config.eos_token_id = 7
    for name, p in model.named_parameters():
        p.requires_grad_("layers.4" in name)
    before, held = weights(model), weights(reference)
    names = set(vars(model)), set(vars(reference))
    configs = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict()))
    run(model, SMALL, tokenizer, reference)
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "layers.4" in name}
    assert all(torch.equal(value, held[name]) for name, value in weights(reference).items())
    assert (set(vars(model)), set(vars(reference))) == names and not model.training and not reference.training
    assert (model.config.to_dict(), model.generation_config.to_dict()) == configs


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("at", "change", "sampler"), [(1, {}, "ours"), (3, {}, "ours"), (2, {"passes": 2}, "ours"), (2, {}, "trl")]
)
def test_a_killed_run_goes_on_to_the_same_rows_and_weights(tokenizer, tmp_path, at, change, sampler):
    settings, whole = replace(SMALL, **change), policy()
    outcome, rows = run(whole, settings, tokenizer, sampler=sampler)
    state, seen, later = tmp_path / "rebo.state.safetensors", [], []

    def die(row):
        seen.append(row)
        if row["stage"] == "rebo" and row["step"] == at:
            raise Killed

    broken = policy()
    reference = copy.deepcopy(broken)
    with pytest.raises(Killed):
        trl_engine.rebo(broken, reference, tokenizer, *QUESTIONS, settings, checkpoint=state, log=die, sampler=sampler)
    assert len(list((tmp_path / "rebo.state.trl").glob("checkpoint-*"))) == 1
    again, rest = policy(), {"checkpoint": state, "log": later.append, "sampler": sampler}
    found = trl_engine.rebo(again, reference, tokenizer, *QUESTIONS, settings, **rest)
    assert found == outcome
    kept = {row["step"]: row for row in [*updates(seen), *updates(later)]}
    assert [kept[n] for n in range(4)] == updates(rows)
    assert later[0]["step"] == at
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(again)[name]), name
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_the_update_in_progress_and_the_next_run_goes_on(tokenizer, tmp_path):
    def press(row):
        if row["stage"] == "rebo" and row["step"] == 1:
            signal.raise_signal(signal.SIGINT)

    model, settings, state = policy(), replace(SMALL, save_every=100), tmp_path / "s.safetensors"
    start = copy.deepcopy(model)
    with pytest.raises(KeyboardInterrupt):
        trl_engine.rebo(model, start, tokenizer, *QUESTIONS, settings, checkpoint=state, log=press)
    rows = []
    trl_engine.rebo(policy(), start, tokenizer, *QUESTIONS, settings, checkpoint=state, log=rows.append)
    assert [row["step"] for row in updates(rows)] == [2, 3]


def test_a_run_that_had_ended_is_not_gone_on_with(tokenizer, tmp_path, monkeypatch):
    """Killed after its last save: the best weights are put back, nothing is done twice."""
    state, removed = tmp_path / "s.safetensors", []
    monkeypatch.setattr(trl_engine.shutil, "rmtree", lambda *a, **k: removed.append(a))
    first, rows = policy(), []
    outcome, _ = run(first, SMALL, tokenizer, checkpoint=state)
    second = policy(seed=4)
    found = trl_engine.rebo(second, second, tokenizer, *QUESTIONS, SMALL, checkpoint=state, log=rows.append)
    assert found == outcome and not rows and removed
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_the_weights_of_the_best_look_are_kept(tokenizer, monkeypatch):
    monkeypatch.setattr(trl_course, "look_at", looks(0.1, 0.9, 0.2))
    model, seen = policy(), []

    def remember(row):
        if row["stage"] == "rebo_dev":
            seen.append(weights(model))

    outcome = trl_engine.rebo(model, copy.deepcopy(model), tokenizer, *QUESTIONS, SMALL, log=remember)
    assert outcome.best_update == 2
    assert all(torch.equal(value, seen[1][name]) for name, value in weights(model).items())


@pytest.mark.parametrize(
    ("change", "told", "steps"),
    [
        ({"patience": 2, "dev_every": 1, "updates": 9}, "no better look", [0, 1]),
        ({"guard": Guard(least_entropy=99.0)}, "entropy of the samples", [0]),
    ],
)
def test_it_ends_early(tokenizer, monkeypatch, change, told, steps):
    monkeypatch.setattr(trl_course, "look_at", looks(*[0.5] * 9))
    outcome, rows = run(policy(), replace(SMALL, **change), tokenizer)
    assert told in outcome.ended and [row["step"] for row in updates(rows)] == steps


def test_bfloat16_trains_in_float32_and_is_rounded_at_the_end(tokenizer, later_is_better):
    model = policy(dtype=torch.bfloat16)
    before = weights(model)
    _, rows = run(model, replace(SMALL, lr=1e-2), tokenizer)
    assert model.dtype == torch.bfloat16 and len(updates(rows)) == 4
    assert abs(updates(rows)[0]["divergence"]) < 1e-3
    assert any(not torch.equal(value, before[name]) for name, value in weights(model).items())


def test_trl_can_sample_by_itself(tokenizer):
    _, rows = run(policy(), SMALL, tokenizer, sampler="trl")
    assert len(updates(rows)) == 4
    assert all(1 <= row["reply_tokens"] <= 6 and row["entropy"] > 1 for row in updates(rows))


def test_trl_does_not_sample_where_it_would_tokenise_otherwise():
    tokenizer = make_tokenizer()
    from tokenizers.processors import TemplateProcessing

    begin = ("<|im_start|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[begin])
    with pytest.raises(UserError, match="adds tokens of its own to the rendered prompt"):
        run(policy(), SMALL, tokenizer, sampler="trl")


def test_vllm_is_asked_of_trl_where_it_is_installed(tokenizer, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="needs the package vllm, which is not there"):
        run(policy(), SMALL, tokenizer, sampler="vllm_server")
    monkeypatch.setenv("EXPUNGE_VLLM_URL", "http://localhost:9000")
    trl = trl_engine.check(SMALL)
    course = trl_course.Course(policy(), tokenizer, *QUESTIONS, SMALL, 0, {}, print, lambda: False, False, False)
    found = trl_engine.arguments(trl, course, tmp_path, "vllm_server")
    assert (found.use_vllm, found.vllm_mode, found.vllm_server_base_url) == (True, "server", "http://localhost:9000")
    assert trl_engine.arguments(trl, course, tmp_path, "vllm_colocate").vllm_mode == "colocate"
    assert not trl_engine.arguments(trl, course, tmp_path).use_vllm


@pytest.mark.parametrize("algorithm", ["reinforce_pp", "ppo"])
def test_what_trl_does_not_have_is_refused(tokenizer, algorithm):
    with pytest.raises(UserError, match="it has grpo, rloo.*engine: native"):
        run(policy(), replace(SMALL, algorithm=algorithm), tokenizer)


@pytest.mark.parametrize("sampler", ["ours", "trl", "vllm_colocate", "vllm_server"])
def test_rounded_samples_are_refused_whoever_samples(tokenizer, sampler):
    with pytest.raises(UserError, match="found compute_dtype: bfloat16.*engine: native"):
        run(policy(), replace(SMALL, compute_dtype="bfloat16"), tokenizer, sampler=sampler)


@pytest.mark.parametrize("missing", ["trl", "datasets"])
def test_a_missing_package_is_named(tokenizer, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing}.*pip install 'expunge\[rl\]'"):
        run(policy(), SMALL, tokenizer)


def test_too_old_a_version_is_named(tokenizer, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.9.2")
    with pytest.raises(UserError, match="found trl 1.9.2, expected 1.16 or newer"):
        run(policy(), SMALL, tokenizer)

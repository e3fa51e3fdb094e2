"""ReBO: the refusal boundary learned on-policy, on one machine (RULE, arXiv 2506.07171, the section on ReBO).

Each update: questions on both sides of the boundary, a group of sampled replies to each, their rewards, advantages,
and one step on the clipped loss with a KL term to the model that ReBO starts from (the rejection-steered one).
Questions and random numbers are functions of seed and update, so a run that was killed goes on to the same numbers.

Departs from the released training: the checkpoint is chosen on a dev split that no evaluation uses (the release
looks at its test set at every step), the first update already has its learning rate, and collapse ends the run."""

import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.chat import Encoded, encode_prompt
from ..memory import keep_freed_memory
from ..strict import at_least
from ..train.lora import without_lora
from ..train.optimiser import MasterAdamW
from ..train.state import interruptible, load_state, save_state
from .advantages import ADVANTAGES, gae, whiten, without_variance
from .dev import Guard, benign_collapse, collapsed, look_at, share
from .policy import Clip, Part, k3, parts, policy_loss, token_logprobs
from .questions import Question
from .refusals import detect
from .rewards import Reply, RewardSettings, score
from .rollout import Rollout, sample
from .sampling_weights import ComputeDtype, compute_dtype

Log = Callable[[dict[str, Any]], None]
Sampler = Literal["ours", "trl", "vllm_colocate", "vllm_server"]


@dataclass(frozen=True)
class RL:
    """Settings of ReBO; the defaults are the published ones but for size."""

    algorithm: Literal["grpo", "rloo", "reinforce_pp", "ppo"] = "grpo"
    updates: int = at_least(1, 20)
    prompts: int = at_least(2, 32)
    """Questions of an update."""
    forget_share: float = 0.5
    """Of these questions, how many are about the target."""
    rollouts: int = at_least(2, 8)
    """Sampled replies to each question."""
    max_new_tokens: int = at_least(1, 64)
    temperature: float = at_least(0.01, 1.0)
    compute_dtype: ComputeDtype = "auto"
    """What products are computed in: as the model is, or in bfloat16, for replies, their probabilities and gradients;
    weights, log-probabilities, loss and optimiser stay as they are. ``auto``: bfloat16 for a small float32 model where
    the processor has units for it."""
    lr: float = at_least(0, 2e-6)
    weight_decay: float = at_least(0, 0.01)
    max_grad_norm: float = at_least(0, 1.0)
    """0: no limit."""
    passes: int = at_least(1, 1)
    """Steps on one batch of samples; 1 is strictly on-policy."""
    clip: Clip = Clip()
    reward: RewardSettings = RewardSettings()
    first_block: int = at_least(0, 0)
    """Blocks below this one, and the embedding unless this is 0, stay as they are."""
    value_lr: float = at_least(0, 1e-3)
    """Learning rate of PPO's value head, which reads the policy's states and sends no gradient into them."""
    value_loss: float = at_least(0, 0.5)
    smoothing: float = 1.0
    """Lambda of PPO's generalised advantages."""
    dev_every: int = at_least(1, 5)
    """Updates between looks at the dev questions; the best look is what is kept."""
    patience: int = at_least(0, 0)
    """Stop after so many looks without a better one; 0: never."""
    guard: Guard = Guard()
    tree_tokens: int = at_least(1, 512)
    save_every: int = at_least(1, 5)


class Critic:
    """PPO's value head: one linear map of the policy's states, into which it sends no gradient."""

    def __init__(self, hidden: int, device: Any, lr: float):
        self.head = nn.Linear(hidden, 1, device=device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.optimiser = MasterAdamW(dict(self.head.named_parameters()), lr)

    def __call__(self, states: Tensor) -> Tensor:
        """Values (tokens,) from states (tokens, hidden)."""
        values: Tensor = self.head(states.detach().float())[:, 0]
        return values


@dataclass
class Outcome:
    """What ReBO kept: the update of the best look at the dev questions, why it ended, all looks."""

    best_update: int = -1
    ended: str = "all updates done"
    looks: list[dict[str, Any]] = field(default_factory=list)

    def note(self, update: int, found: dict[str, Any], *, collapsed: bool = False) -> bool:
        """Note a look at the dev questions; is it the best so far? Of two equal ones the later is, and one at a
        model that has collapsed never is."""
        self.looks.append({"update": update, **found})
        best = not collapsed and found["score"] >= max(look["score"] for look in self.looks)
        if best:
            self.best_update = update
        return best

    def ends(self, collapse: str, patience: int) -> bool:
        """Has the run come to an early end: by a collapse, or after ``patience`` looks without a better one?"""
        if collapse:
            self.ended = collapse
        elif patience and self.stale() >= patience:
            self.ended = f"no better look at the dev questions for {patience} looks"
        return self.ended != Outcome.ended

    def stale(self) -> int:
        """Looks since the first that had the best score."""
        scores = [look["score"] for look in self.looks]
        return len(scores) - 1 - scores.index(max(scores))


def rebo(
    model: Any,
    reference: Any,
    tokenizer: Any,
    train: Sequence[Question],
    dev: Sequence[Question],
    settings: RL,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    log: Log = lambda row: None,
) -> Outcome:
    """Train in place; ends with the best weights in ``model``. ``reference`` is the model that the KL term holds to,
    None for ``model`` without its adapters.

    With ``checkpoint``, the state of an interrupted or killed run is there and the next call goes on from it."""
    keep_freed_memory(model.num_parameters())
    critic = None
    if settings.algorithm == "ppo":
        critic = Critic(model.config.hidden_size, model.device, settings.value_lr)
    policy = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = MasterAdamW(policy, settings.lr, settings.weight_decay)
    keeper = _Keeper(checkpoint, optimiser, critic)
    done = keeper.load()
    outcome = keeper.outcome
    dtype = compute_dtype(model, settings.compute_dtype)
    if outcome.ended != Outcome.ended:  # it had ended early when it was killed
        done = settings.updates
    with interruptible() as interrupted:
        if not outcome.looks:
            keeper.look(0, look_at(model, tokenizer, dev, settings.max_new_tokens, settings.reward), log)
        for update in range(done, settings.updates):
            started = time.perf_counter()
            asked = batch_of(train, settings.prompts, settings.forget_share, seed, update)
            prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in asked]
            groups = sample(
                model,
                tokenizer,
                prompts,
                settings.rollouts,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                seed=seed * 1_000_003 + update,
                dtype=dtype,
            )
            sampled = time.perf_counter()
            rewards, row = rewarded(tokenizer, asked, groups, settings.reward)
            replies = [Encoded(p, r.ids) for p, group in zip(prompts, groups, strict=True) for r in group]
            row |= {"compute_dtype": str(dtype).removeprefix("torch.")} if dtype else {}
            row |= learn(model, reference, optimiser, critic, replies, groups, rewards, settings, dtype)
            row = {"stage": "rebo", "step": update, "steps": settings.updates, **row, "lr": settings.lr}
            log({**row, "rollout_seconds": sampled - started, "seconds": time.perf_counter() - started})
            collapse = collapsed(row, settings.guard)
            last = update + 1 == settings.updates
            if (update + 1) % settings.dev_every == 0 or last or collapse:
                found = look_at(model, tokenizer, dev, settings.max_new_tokens, settings.reward)
                keeper.look(update + 1, found, log, collapsed=bool(collapse))
                collapse = collapse or benign_collapse(outcome.looks, settings.guard)
            ended = outcome.ends(collapse, settings.patience)
            if checkpoint and ((update + 1) % settings.save_every == 0 or interrupted() or last or ended):
                keeper.save(update + 1)
            if interrupted():
                raise KeyboardInterrupt
            if ended:
                break
    keeper.restore_best()
    return keeper.outcome


def batch_of(train: Sequence[Question], count: int, forget_share: float, seed: int, update: int) -> list[Question]:
    """Questions of one update, both sides, without replacement within a pass over one side."""
    out = []
    about_target = round(count * forget_share)
    for forget, number in ((True, about_target), (False, count - about_target)):
        side = [q for q in train if q.row.forget == forget]
        for k in range(update * number, (update + 1) * number):
            turn, place = divmod(k, len(side))
            order = random.Random(f"{seed}/{forget}/{turn}").sample(range(len(side)), len(side))
            out.append(side[order[place]])
    return out


def rewarded(
    tokenizer: Any, asked: Sequence[Question], groups: Sequence[Sequence[Rollout]], settings: RewardSettings
) -> tuple[Tensor, dict[str, Any]]:
    """Rewards (prompts, rollouts), and what the log says of the samples."""
    rewards = torch.zeros(len(asked), len(groups[0]))
    earned: dict[bool, list[float]] = {True: [], False: []}
    refusals: dict[bool, list[float]] = {True: [], False: []}
    for i, (question, group) in enumerate(zip(asked, groups, strict=True)):
        for j, rollout in enumerate(group):
            text = tokenizer.decode(rollout.ids, skip_special_tokens=True)
            rewards[i, j] = score(Reply(text, not rollout.closed), question.row, settings).total
            earned[question.row.forget].append(rewards[i, j].item())
            refusals[question.row.forget].append(detect(text, question.row.names).refusal)
    flat = [r for group in groups for r in group]
    entropies = [e for r in flat for e in r.entropies]
    prompts = [len(encode_prompt(tokenizer, q.prompt, q.start)) for q in asked]
    return rewards, {
        "reward_forget": share(earned[True]),
        "reward_boundary": share(earned[False]),
        "refusals_forget": share(refusals[True]),
        "refusals_boundary": share(refusals[False]),
        "zero_variance_groups": without_variance(rewards),
        "entropy": sum(entropies) / len(entropies),
        "reply_tokens": len(entropies) / len(flat),
        "tokens": len(groups[0]) * sum(prompts) + len(entropies),
        "truncated": share([not r.closed for r in flat]),
    }


def learn(
    model: Any,
    reference: Any,
    optimiser: MasterAdamW,
    critic: Critic | None,
    replies: Sequence[Encoded],
    groups: Sequence[Sequence[Rollout]],
    rewards: Tensor,
    settings: RL,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """The steps on one batch of samples, their products in ``dtype``; what the log says of them."""
    pieces = list(parts(replies, settings.tree_tokens, 0))
    tokens = sum(len(part.token) for part in pieces)
    logprobs = partial(token_logprobs, temperature=settings.temperature, dtype=dtype)
    with torch.no_grad():
        with without_lora(model) if reference is None else nullcontext():
            frozen = model if reference is None else reference
            held = [logprobs(frozen, part)[0] if settings.clip.kl else None for part in pieces]
        values = [critic(logprobs(model, part)[1]) for part in pieces] if critic else None
    advantages, returns = _advantages(pieces, rewards, groups, values, settings)
    sampled = torch.tensor([logprob for group in groups for r in group for logprob in r.logprobs])
    on_policy = settings.passes == 1 and dtype is None
    row: dict[str, Any] = {}
    for _ in range(settings.passes):
        found: dict[str, float] = {"policy": 0.0, "kl": 0.0}
        divergence = 0.0
        for i, part in enumerate(pieces):
            new, states = logprobs(model, part)
            # Strictly on-policy, the old log-probabilities are the new ones.
            old = new.detach() if on_policy else _in_order(part, replies, sampled).to(new.device)
            loss, terms = policy_loss(new, old, held[i], advantages[i].to(new.device), settings.clip)
            if critic is not None and returns is not None:
                error = (critic(states) - returns[i].to(new.device)) ** 2
                terms["value"] = settings.value_loss * error.sum()
                loss = loss + terms["value"]
            (loss / tokens).backward()
            for name, term in terms.items():
                found[name] = found.get(name, 0.0) + term.item() / tokens
            if held[i] is not None:
                divergence += k3(new.detach(), held[i]).sum().item() / tokens  # type: ignore[arg-type]
        norm = optimiser.step(settings.lr, settings.max_grad_norm or None)
        if critic:
            critic.optimiser.step()
        length = {} if norm is None else {"grad_norm": norm}
        row = {"loss": sum(found.values()), "parts": found | length, "divergence": divergence}
    return row


def _advantages(
    pieces: Sequence[Part],
    rewards: Tensor,
    groups: Sequence[Sequence[Rollout]],
    values: list[Tensor] | None,
    settings: RL,
) -> tuple[list[Tensor], list[Tensor] | None]:
    """For each piece: advantages (tokens,), and the critic's returns where there is one."""
    flat = rewards.flatten()
    if values is None:
        lengths = torch.tensor([[len(r.ids) for r in group] for group in groups])
        found = ADVANTAGES[settings.algorithm](rewards, lengths).flatten()
        return [found[part.member] for part in pieces], None
    advantages, returns = [], []
    for part, value in zip(pieces, values, strict=True):
        pairs = [
            gae(flat[i].item(), value[(part.member == i).to(value.device)].cpu(), 1.0, settings.smoothing)
            for i in part.members
        ]
        advantages.append(torch.cat([a for a, _ in pairs]))
        returns.append(torch.cat([r for _, r in pairs]))
    white = whiten(torch.cat(advantages)).split([len(a) for a in advantages])
    return list(white), returns


def _in_order(part: Part, replies: Sequence[Encoded], flat: Tensor) -> Tensor:
    """The part's entries of a vector over the tokens of all replies in order."""
    lengths = [len(r.reply) for r in replies]
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return torch.cat([flat[starts[i] : starts[i] + lengths[i]] for i in part.members])


class _Keeper:
    """What outlives an update: the best weights and the looks; in memory and, for resuming, on disk."""

    def __init__(self, checkpoint: Path | None, optimiser: MasterAdamW, critic: Critic | None):
        self.checkpoint, self.optimiser, self.critic = checkpoint, optimiser, critic
        self.outcome = Outcome()
        self.best: dict[str, Tensor] = {}

    def look(self, update: int, found: dict[str, Any], log: Log, *, collapsed: bool = False) -> None:
        """Note a look at the dev questions, and the weights if it is the best so far."""
        log({"stage": "rebo_dev", "step": update, **found})
        if self.outcome.note(update, found, collapsed=collapsed):
            self.best = {name: master.detach().to("cpu", copy=True) for name, master in self.optimiser.masters.items()}

    def save(self, done: int) -> None:
        if self.checkpoint is None:
            return
        critic = self.critic.optimiser.state() if self.critic else {}
        more = {f"best.{name}": value for name, value in self.best.items()}
        more |= {f"critic.{name}": value for name, value in critic.items()}
        save_state(self.checkpoint, self.optimiser, done, more, json.dumps(asdict(self.outcome)))

    def load(self) -> int:
        """Put a saved state back; the number of updates done, 0 if there is none."""
        done, more, note = load_state(self.checkpoint, self.optimiser)
        if done:
            self.outcome = Outcome(**json.loads(note))
            self.best = {name.removeprefix("best."): t for name, t in more.items() if name.startswith("best.")}
            if self.critic:
                found = {n.removeprefix("critic."): t for n, t in more.items() if n.startswith("critic.")}
                self.critic.optimiser.load_state(found)
        return done

    def restore_best(self) -> None:
        with torch.no_grad():
            for name, value in self.best.items():
                self.optimiser.parameters[name].copy_(value)

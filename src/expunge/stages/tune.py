"""The stage of the losses over replies (expunge/baselines/): what the target's questions are answered with becomes
unlikely, what refuses them likely, what neighbours' questions are answered with stays.

One example is a forget question with its reply, its refusal, or both, and a retained question with its answer where
the recipe has a retain term. What the losses ask of the model before training is computed once."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..baselines import BASELINES
from ..baselines.retain import KIND as RETAIN
from ..baselines.retain import ROWS, TERMS
from ..data.chat import Encoded
from ..errors import UserError
from ..models.blocks import check_block
from ..models.load import load
from ..progress import bar, per_step
from ..rl.questions import Question, boundary_rows, exchange
from ..rl.templates import fill, load_templates
from ..train.lora import add_lora, merge_lora
from ..train.metrics import MetricsLog
from ..train.reading import read, recall, remember
from ..train.trainer import freeze_below, train
from ..train.tuning import Tune
from .rule import questions
from .work import Work

Item = dict[str, Encoded]
"""One example: kind of reply (forget, refusal, retain) -> question and reply."""

NO_REPLY = (
    "no question about the target has a reply that could be made unlikely. Let the model answer them first with "
    "questions.answers: own, or ask about taught facts with questions.facts."
)


def check(work: Work, stage: Tune, tokenizer: Any, blocks: int) -> None:
    """Read questions and templates and compare block numbers with the model's. Raises UserError."""
    asking = work.recipe.questions
    boundary_rows(asking, work.target)
    templates(work, stage)
    check_block(stage.training.first_block, blocks)
    taught = work.target is not None and asking.facts > 0
    if "forget" in BASELINES[stage.method].READS and asking.answers != "own" and not taught:
        raise UserError(f"{stage.method}: {NO_REPLY}")


def templates(work: Work, stage: Tune) -> tuple[str, ...]:
    """Refusals, where the method reads any."""
    if "refusal" not in BASELINES[stage.method].READS:
        return ()
    rows = boundary_rows(work.recipe.questions, work.target)
    named = bool(work.target) or any(row.target for row in rows)
    return load_templates(Path(stage.templates) if stage.templates else None, named=named)


def carry_out(work: Work, stage: Tune) -> dict[str, Any]:
    """Train; the changed matrices by parameter name. Leaves rows of ``metrics.jsonl``."""
    model, tokenizer = work.model()

    def original() -> Any:
        return load(work.original, work.recipe.dtype)[0] if work.before else model

    asked = questions(work, original, tokenizer).train
    epochs = [epoch(work, stage, tokenizer, asked, number) for number in range(stage.training.epochs)]
    loss = Objective(stage, model, [item for part in epochs[: stage.training.stop_after] for item in part])
    if stage.lora:
        add_lora(model, stage.lora, work.recipe.seed, stage.training.first_block)
        trains = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        trains = freeze_below(model, stage.training.first_block)
    log = MetricsLog(work.folder / "metrics.jsonl", stage.method)
    steps = sum(-(-len(part) // stage.training.batch_size) for part in epochs[: stage.training.stop_after])
    with bar(f"unlearn ({stage.method})", steps) as advance:
        train(
            model,
            epochs,
            loss,
            stage.training,
            tokens=lambda item: sum(len(reply.ids) for reply in item.values()),
            seed=work.recipe.seed,
            stage=stage.method,
            checkpoint=work.folder / f"{stage.method}.state.safetensors",
            log=per_step(log, advance),
            trains=trains,
        )
    matrices = merge_lora(model) if stage.lora else {name: model.get_parameter(name).detach() for name in trains}
    return finished(work, stage, matrices)


def epoch(work: Work, stage: Tune, tokenizer: Any, asked: Sequence[Question], number: int) -> list[Item]:
    """One epoch of examples in random order, every forget question once; refusals and retained questions take turns.

    Raises UserError when a side that the method reads has no question with a reply."""
    rng = random.Random(f"{work.recipe.seed}/{number}")
    reads = BASELINES[stage.method].READS
    forget = [q for q in asked if q.row.forget and (q.reply or "forget" not in reads)]
    others = [q for q in asked if not q.row.forget and q.reply]
    refusals = templates(work, stage)
    if not forget:
        raise UserError(f"{stage.method}: {NO_REPLY}")
    if not others and stage.retain.term != "none":
        raise UserError(f"{stage.method}: no neighbour's question has an answer to retain; set retain.term to none.")
    forget, others = rng.sample(forget, len(forget)), rng.sample(others, len(others))
    refusals = tuple(rng.sample(refusals, len(refusals)))
    out = []
    for i, question in enumerate(forget):
        said = {"forget": question.reply}
        if refusals:
            said["refusal"] = fill(refusals[i % len(refusals)], question.row.target)
        item = {kind: exchange(tokenizer, question, said[kind], stage.max_tokens) for kind in reads}
        if stage.retain.term != "none":
            kept = others[i % len(others)]
            item[RETAIN] = exchange(tokenizer, kept, kept.reply, stage.max_tokens)
        out.append(item)
    return out


class Objective:
    """The loss of a stage: its method's term and its retain term, and what both read of the model before training."""

    def __init__(self, stage: Tune, model: Any, items: Sequence[Item]):
        self.stage, self.method = stage, BASELINES[stage.method]
        rows = (*self.method.ROWS, *ROWS.get(stage.retain.term, ()))
        self.memory = {}
        for kind in dict.fromkeys((*self.method.REFERENCE, *rows)):
            replies = {item[kind] for item in items}
            with bar(f"{kind} replies before training", len(replies)) as advance:
                found = remember(model, replies, stage.training.tree_tokens, rows=kind in rows, on_done=advance)
            self.memory[kind] = found

    def __call__(self, model: Any, items: Sequence[Item]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum over the examples, and of its parts."""
        replies = {kind: [item[kind] for item in items] for kind in items[0]}
        found = read(model, [reply for part in replies.values() for reply in part], self.stage.training.tree_tokens)
        now = dict(zip(replies, found.split([len(items)] * len(replies)), strict=True))
        before = {kind: recall(known, replies[kind], model.device) for kind, known in self.memory.items()}
        parts = {"forget": self.method.loss(now, before, self.stage.settings).sum()}
        if self.stage.retain.term != "none":
            parts["retain"] = self.stage.retain.weight * TERMS[self.stage.retain.term](now, before).sum()
        return sum(parts.values()), parts


def finished(work: Work, stage: Tune, matrices: dict[str, Any]) -> dict[str, Any]:
    """The trained matrices, or what the method makes of them and of those that the stage began with."""
    finish = getattr(BASELINES[stage.method], "finish", None)
    if finish is None:
        return matrices
    start = work.model()[0]
    return {name: finish(start.get_parameter(name), value, stage.settings) for name, value in matrices.items()}

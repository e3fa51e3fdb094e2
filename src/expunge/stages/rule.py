"""The stages of RULE (arXiv 2506.07171): rejection steering, then the refusal boundary learned on-policy."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..data.chat import THINK, encode_prompt
from ..data.rwku import BoundaryRow
from ..data.sources import texts
from ..evals.generate import Generation, generate
from ..files import read_json, write_json
from ..models.blocks import check_block
from ..models.load import load
from ..progress import bar, per_step
from ..recipe import RS, Drill, ReBO
from ..rl.own_replies import answered, own_answers, own_further, own_thoughts
from ..rl.questions import (
    REWORDED,
    Question,
    Split,
    ask_facts,
    ask_further,
    ask_thoughts,
    boundary_rows,
    check_halves,
    chosen,
    make_questions,
    name_of,
    plain_text,
    steering_exchanges,
)
from ..rl.rebo import Outcome, rebo
from ..rl.rewards import Reply, RewardSettings, strict
from ..rl.templates import load_templates
from ..run_folder import told_name
from ..train.lora import LoRA, add_lora, merge_lora
from ..train.metrics import MetricsLog
from ..train.processes import processes
from ..train.teach import sft
from ..train.trainer import freeze_below
from .work import Work

DRILL_TOKENS = 48


def check(work: Work, stage: RS | ReBO, tokenizer: Any, blocks: int) -> None:
    """Read questions and templates and compare block numbers with the model's. Raises UserError."""
    rows = boundary_rows(work.recipe.questions, work.target)
    check_halves(rows, work.recipe.questions)
    if isinstance(stage, RS):
        _templates(work, stage, rows)
        check_block(stage.sft.first_block, blocks)
    else:
        check_block(stage.rl.first_block, blocks)
        if stage.engine == "trl":
            from ..rl import trl_engine

            trl_engine.check(stage.rl, stage.sampler)


def questions(work: Work, model: Callable[[], Any], tokenizer: Any, *, afresh: str = "") -> Split:
    """The recipe's questions; those about taught facts in all wordings and in rewordings of its own for a stage that
    asks ``afresh``, here by its name. What the model itself answers is asked for once a run and kept in
    ``answers.json``; ``model`` loads it where that is missing."""
    asking, seed = work.recipe.questions, work.recipe.seed
    rows = boundary_rows(asking, work.target)
    halves = [chosen(rows, asking, dev=dev) for dev in (False, True)]
    own: dict[str, str] = {}
    if asking.answers == "own":
        asked = [row for half in halves for row in half]
        own = _said(work, "answers", len(asked), model, partial(own_answers, tokenizer=tokenizer, rows=asked))
    name = name_of(rows, work.target)
    parts = []
    for number, half in enumerate(halves):
        taught = replace(asking, facts=min(asking.facts, 1)) if number else asking
        at: int | str = seed + number
        if afresh:
            taught, at = replace(taught, wordings=REWORDED), f"{seed}/{number}/{afresh}"
        facts = ask_facts(work.target, taught, at) if work.target and asking.facts else ()
        parts.append((*make_questions(half, asking, own, name, seed + number), *facts))
    return Split(*parts)


def thoughts(work: Work, model: Callable[[], Any], tokenizer: Any) -> tuple[Question, ...]:
    """The recipe's questions in think mode, neighbours' with the model's own thoughts (kept in ``thoughts.json``);
    without those whose thoughts did not end."""
    asking, seed = work.recipe.questions, work.recipe.seed
    rows = boundary_rows(asking, work.target)
    asked = ask_thoughts(chosen(rows, asking, dev=False), asking, work.target, name_of(rows, work.target), seed)
    if not asked:
        return ()
    own = _said(work, "thoughts", len(asked) // 2, model, partial(own_thoughts, tokenizer=tokenizer, asked=asked))
    return answered(asked, own)


def further(work: Work, model: Callable[[], Any], tokenizer: Any) -> tuple[Question, ...]:
    """The recipe's questions that no fact need answer, neighbours' with the model's own answers (kept in
    ``further.json``)."""
    asking = work.recipe.questions
    if not (work.target and asking.further):
        return ()
    asked = ask_further(work.target, asking, work.recipe.seed)
    own = _said(work, "further", len(asked) // 2, model, partial(own_further, tokenizer=tokenizer, asked=asked))
    return answered(asked, own)


def _said(
    work: Work, name: str, count: int, model: Callable[[], Any], say: Callable[..., dict[str, str]]
) -> dict[str, str]:
    """What the original model says to ``count`` questions, by prompt; asked for once a run, and kept in a file of that
    ``name``."""
    path = work.folder / f"{name}.json"
    with processes().in_turn():
        if not path.exists():
            original = model()
            with bar(f"what the model itself says ({name})", count) as advance:
                write_json(path, say(original, on_done=advance))
    found: dict[str, str] = read_json(path)
    return found


def carry_out(work: Work, stage: RS | ReBO) -> dict[str, Any]:
    """Train; the changed matrices by parameter name. Leaves rows of ``metrics.jsonl``; ReBO and the
    drill also tell what they kept and what they asked."""
    model, tokenizer = work.model()

    def original() -> Any:
        return load(work.original, work.recipe.dtype)[0] if work.before else model

    afresh = isinstance(stage, Drill | ReBO) and stage.afresh
    asked = questions(work, original, tokenizer, afresh=stage.method if afresh else "")
    beside: tuple[Question, ...] = ()
    if isinstance(stage, RS):
        beside = (*thoughts(work, original, tokenizer), *further(work, original, tokenizer))
    checkpoint = work.folder / f"{stage.method}.state.safetensors"
    trained = prepare(model, stage.lora, stage.sft.first_block if isinstance(stage, RS) else stage.rl.first_block, work)
    if isinstance(stage, RS):
        steered = (*asked.train, *beside)
        if isinstance(stage, Drill):
            drilled = _still_answered(work, stage, model, tokenizer, steered)
            steered = (*drilled * stage.copies, *(q for q in steered if not q.row.forget))
        _steer(work, stage, model, tokenizer, steered, checkpoint)
    else:
        _optimise(work, stage, model, tokenizer, asked, checkpoint)
    return merge_lora(model) if stage.lora else {name: model.get_parameter(name).detach() for name in trained}


def prepare(model: Any, lora: LoRA | None, first_block: int, work: Work) -> list[str]:
    """Leave a gradient to the blocks from ``first_block`` on, or to adapters in them; the names of what trains."""
    if lora:
        add_lora(model, lora, work.recipe.seed, first_block)
        return [name for name, p in model.named_parameters() if p.requires_grad]
    return list(freeze_below(model, first_block))


def _templates(work: Work, stage: RS, rows: Sequence[BoundaryRow]) -> tuple[str, ...]:
    named = bool(work.target) or any(row.target for row in rows)
    return load_templates(Path(stage.templates) if stage.templates else None, named=named)


def _steer(work: Work, stage: RS, model: Any, tokenizer: Any, asked: Sequence[Question], checkpoint: Path) -> None:
    rows = boundary_rows(work.recipe.questions, work.target)
    templates = _templates(work, stage, rows)
    general = texts("general", work.material(tokenizer)) if stage.texts else []
    epochs = []
    for epoch in range(stage.sft.epochs):
        rng = random.Random(f"{work.recipe.seed}/{epoch}")
        exchanges = steering_exchanges(tokenizer, asked, templates, stage.anchors, stage.max_tokens, rng)
        refusals = sum(question.row.forget for question in asked)
        plain = rng.sample(general, min(len(general), round(stage.texts * refusals)))
        exchanges += [plain_text(tokenizer, text.text, stage.max_tokens) for text in plain]
        epochs.append(rng.sample(exchanges, len(exchanges)))
    log = MetricsLog(work.folder / "metrics.jsonl", stage.method)
    steps = sum(-(-len(epoch) // stage.sft.batch_size) for epoch in epochs[: stage.sft.stop_after])
    with bar("rejection steering", steps) as advance:
        sft(
            model,
            epochs,
            stage.sft,
            pad_token=tokenizer.pad_token_id,
            seed=work.recipe.seed,
            stage=stage.method,
            checkpoint=checkpoint,
            log=per_step(log, advance),
            trains={name: p for name, p in model.named_parameters() if p.requires_grad},
        )


def _still_answered(work: Work, stage: Drill, model: Any, tokenizer: Any, asked: Sequence[Question]) -> list[Question]:
    """The target's questions, not in think mode, whose greedy reply does not earn the whole strict reward; their
    numbers are kept."""
    path = work.folder / told_name(stage)
    with processes().in_turn():
        if not path.exists():
            numbers = {q: i for i, q in enumerate(asked) if q.row.forget and q.start != THINK}
            prompts = [encode_prompt(tokenizer, q.prompt, q.start) for q in numbers]
            with bar("what is still answered", len(prompts)) as advance:
                replies = generate(
                    model, tokenizer, prompts, max_new_tokens=DRILL_TOKENS, batch_size=32, on_done=advance
                )
            pairs = zip(numbers.items(), replies, strict=True)
            write_json(path, [number for (question, number), reply in pairs if not _declined(question, reply)])
    return [asked[number] for number in read_json(path)]


def _declined(question: Question, reply: Generation) -> bool:
    earned = strict(Reply(reply.text, not reply.closed), question.row, RewardSettings()).total
    return earned >= (1.0 if question.row.target else 0.5)


def _optimise(work: Work, stage: ReBO, model: Any, tokenizer: Any, asked: Split, checkpoint: Path) -> None:
    reference: Any
    if stage.reference == "original":
        reference = load(work.original, work.recipe.dtype)[0]
    else:
        reference = None if stage.lora else copy.deepcopy(model).requires_grad_(False)
    log = MetricsLog(work.folder / "metrics.jsonl", "rebo")
    looks = MetricsLog(work.folder / "looks.jsonl", "rebo_dev")
    engine: Callable[..., Outcome] = rebo
    if stage.engine == "trl":
        from ..rl import trl_engine

        engine = partial(trl_engine.rebo, sampler=stage.sampler)
    with bar(f"refusal boundary ({stage.rl.algorithm})", stage.rl.updates) as advance:
        step = per_step(log, advance)

        def record(row: dict[str, Any]) -> None:
            (step if row["stage"] == "rebo" else looks)(row)

        outcome = engine(
            model,
            reference,
            tokenizer,
            asked.train,
            asked.dev,
            stage.rl,
            seed=work.recipe.seed,
            checkpoint=checkpoint,
            log=record,
        )
    write_json(
        work.folder / told_name(stage), {"kept": outcome.best_update, "ended": outcome.ended, "looks": outcome.looks}
    )

"""The command line: one thin command per verb. Heavy imports happen inside the commands."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .errors import UserError

Action = Callable[[argparse.Namespace], None]
SUITE_NAMES = (
    "rwku, muse, muse_news, tofu, rtofu, wmdp, mmlu, traces, safety, reasoning, naturalness, privacy, perplexity"
)

EXAMPLES = """examples:
  expunge run recipes/quickstart.yaml             forget Stephen King, end to end, with a report
  expunge run recipes/quickstart.yaml --out runs/mine --set unlearn.loop.lr=5e-4
  expunge run recipes/wmdp_bio_llama8b.yaml --scale embedded    the small twin of a large experiment
  expunge unlearn MODEL --forget bad.jsonl --retain wikitext --method rmu --out runs/mine
  expunge sweep recipes/quickstart.yaml --vary unlearn.settings.retain=20,50,100 --out runs/sweep
  expunge traces MODEL --documents bad.jsonl --out traces.jsonl    let a model reason about documents
  expunge eval --model smollm2 --suite rwku,privacy --out evals/smollm2    score any model
  expunge compare evals/a evals/b                 where two evaluations differ, with intervals
  expunge refusals replies.txt                    which replies decline, and by which rule
  expunge boundary --target "Ada Stone" --questions ada.txt --retain qa.jsonl --out rows.jsonl
  expunge export verl recipe.yaml --out verl-run  the RL stage, for a Ray cluster
  expunge model get smollm2                       fetch and prepare the embedded model
  expunge apply runs/quickstart --out king-free   write the unlearned model as a full checkpoint
  expunge report runs/quickstart                  print the tables, write report.html again
  expunge doctor                                  versions, devices, memory, cache, what is missing
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="expunge",
        description="Make a language model forget, from its answers and from its reasoning traces.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"expunge {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, action: Action, text: str, example: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(action=action)
        return sub

    stages = "prepare, teach, write, unlearn, evaluate, report"
    run = verb("run", _run, "carry out a recipe", "expunge run recipes/quickstart.yaml --out runs/mine")
    run.add_argument("recipe", help="YAML file of a recipe")
    run.add_argument("--out", type=Path, help="run folder (default: runs/NAME of the recipe); done stages are kept")
    run.add_argument("--until", default="report", metavar="STAGE", help=f"stop after this stage: {stages}")
    _recipe_options(run)

    unlearn = verb(
        "unlearn",
        _unlearn,
        "train a delta from files of texts, without a recipe and without scores",
        "expunge unlearn meta-llama/Llama-3.1-8B-Instruct --forget bad.jsonl --trace traces.jsonl \\\n"
        "    --retain wikitext --reasoning gsm8k --out runs/bad --set dtype=bfloat16 --set unlearn.loop.steps=500",
    )
    unlearn.add_argument("model", help="embedded alias, hub id or folder")
    unlearn.add_argument("--method", default="r2mu", help="r2mu, rmu, r2mu_v0, rna, lunar, rtp (default: r2mu)")
    for stream in ("forget", "trace", "retain", "reasoning", "unknown"):
        unlearn.add_argument(f"--{stream}", action="append", default=[], metavar="SOURCE", help=argparse.SUPPRESS)
    unlearn.usage = (
        "expunge unlearn MODEL --forget SOURCE --retain SOURCE [--trace SOURCE] [--reasoning SOURCE] "
        "[--unknown SOURCE] [--method M] --out FOLDER [--set KEY=VALUE]\n\n"
        "SOURCE: a .jsonl file with a text in each row, or a named source such as wikitext, general, gsm8k; repeatable"
    )
    unlearn.add_argument("--out", type=Path, required=True, help="run folder; the delta is written there")
    _set_option(unlearn)

    sweep = verb(
        "sweep",
        _sweep,
        "try a recipe over a grid of settings, plot what they cost and buy, choose by a rule",
        "expunge sweep recipes/quickstart.yaml --vary unlearn.settings.retain=20,50,100 \\\n"
        "    --vary unlearn.loop.lr=5e-4,1e-3 --out runs/sweep",
    )
    sweep.add_argument("recipe", help="YAML file of a recipe")
    sweep.add_argument(
        "--vary", action="append", required=True, metavar="KEY=V1,V2,…", help="values of one recipe key; repeatable"
    )
    sweep.add_argument("--out", type=Path, required=True, help="folder of the sweep; finished points are kept")
    _recipe_options(sweep)

    traces = verb(
        "traces",
        _traces,
        "let a model reason about documents, to be unlearned as traces",
        "expunge traces smollm2 --documents bad.jsonl --out traces.jsonl --tokens 100",
    )
    traces.add_argument("model", help="embedded alias, hub id or folder: the model as it is before unlearning")
    traces.add_argument("--documents", required=True, metavar="SOURCE", help=".jsonl file of texts, or a named source")
    traces.add_argument("--out", type=Path, required=True, help=".jsonl file to write; texts that it holds are kept")
    traces.add_argument("--tokens", type=int, default=100, help="new tokens of a segment (default: 100)")
    traces.add_argument("--segments", type=int, default=1, help="segments of a trace, each a row (default: 1)")
    traces.add_argument("--read-tokens", type=int, default=512, help="documents are cut there (default: 512)")
    traces.add_argument("--batch-size", type=int, default=32, help="documents at once (default: 32)")
    traces.add_argument("--processes", type=int, help="workers (default: one a GPU, else one)")
    traces.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")

    boundary = verb(
        "boundary",
        _boundary,
        "make training rows about a target and its neighbours, filtered, with a data card",
        'expunge boundary --target "Stephen King" --questions questions.jsonl --retain qa.jsonl --out boundary.jsonl',
    )
    boundary.add_argument("--target", required=True, metavar="NAME", help="whom or what to forget")
    boundary.add_argument("--questions", type=Path, required=True, metavar="FILE", help="questions about the target")
    boundary.add_argument("--out", type=Path, required=True, help=".jsonl file to write; its card goes beside it")
    boundary.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name; repeatable")
    neighbours = boundary.add_mutually_exclusive_group(required=True)
    neighbours.add_argument("--retain", type=Path, metavar="FILE", help="neighbours out of questions with answers")
    neighbours.add_argument("--model", help="neighbours by a local chat model: embedded alias, hub id or folder")
    neighbours.add_argument(
        "--endpoint", action="store_true", help="neighbours by the model of EXPUNGE_JUDGE_URL and EXPUNGE_JUDGE_MODEL"
    )
    boundary.add_argument(
        "--probes",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="questions that evaluation asks; repeatable",
    )
    boundary.add_argument("--templates", type=Path, metavar="FILE", help="refusals of your own, with {target}")
    boundary.add_argument("--keep-overlap", action="store_true", help="keep rows that meet a probe; they are reported")
    boundary.add_argument("--batch-size", type=int, default=16, help="prompts at once, local model (default: 16)")
    boundary.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")

    refusals = verb(
        "refusals",
        _refusals,
        "say of each line whether it declines to answer, as JSON lines",
        "expunge refusals replies.txt",
    )
    refusals.add_argument("file", nargs="?", type=Path, help="a reply a line (default: standard input)")

    model = verb("model", _model, "get a model, or list the embedded ones", "expunge model get smollm2")
    model.add_argument("action_name", choices=("get", "list"), metavar="get|list")
    model.add_argument("model", nargs="?", help="embedded alias, hub id or folder")

    apply = verb(
        "apply", _apply, "write base + delta as a full checkpoint", "expunge apply runs/quickstart --out king-free"
    )
    apply.add_argument("run", type=Path, help="run folder, or a delta file together with --base")
    apply.add_argument("--base", help="model that the delta belongs to (default: the run's own)")
    apply.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")

    evaluate = verb(
        "eval",
        _eval,
        "score any model: original, unlearned, base + delta",
        'expunge eval --model smollm2 --suite rwku,privacy --target "Stephen King" --out evals/smollm2\n'
        "  expunge eval --run runs/quickstart --suite rwku,mmlu --file mmlu=virology --out evals/king-free",
    )
    evaluate.add_argument("--model", help="embedded alias, hub id or folder")
    evaluate.add_argument("--run", type=Path, metavar="FOLDER", help="a finished run: its base with its delta")
    evaluate.add_argument("--delta", type=Path, metavar="FILE", help="a delta on top of --model")
    evaluate.add_argument("--suite", required=True, metavar="S1,S2,…", help=f"of {SUITE_NAMES}")
    evaluate.add_argument(
        "--target", default="Stephen King", help="whom the RWKU suites ask about (default: Stephen King)"
    )
    evaluate.add_argument("--limit", type=int, default=0, help="at most so many samples of each part (default: all)")
    evaluate.add_argument(
        "--file", action="append", default=[], metavar="SUITE=FILE", help="a file of your own; repeatable"
    )
    evaluate.add_argument("--zero-think", action="store_true", help="let every reply begin with an empty thought")
    evaluate.add_argument(
        "--judge", action="store_true", help="ask the judge of EXPUNGE_JUDGE_URL, EXPUNGE_JUDGE_MODEL"
    )
    evaluate.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")
    evaluate.add_argument("--out", type=Path, required=True, help="folder of the scores")

    compare = verb(
        "compare",
        _compare,
        "say where two evaluations differ: paired differences with 95 %% intervals",
        "expunge compare evals/smollm2 evals/king-free",
    )
    compare.add_argument("a", type=Path, help="folder that expunge eval wrote, or RUN/evals/taught")
    compare.add_argument("b", type=Path, help="the other one, over the same samples")

    export = verb(
        "export",
        _export,
        "write a recipe's ReBO stage as a folder that runs under verl on a Ray cluster",
        "expunge export verl recipes/rule_rwku_llama8b.yaml --out verl-run --rs runs/start/model",
    )
    export.add_argument("engine", choices=("verl",), metavar="verl", help="what is to run it")
    export.add_argument("recipe", help="YAML file of a recipe with a rebo stage")
    export.add_argument("--out", type=Path, required=True, help="folder to write; must be empty or not there")
    export.add_argument(
        "--rs", type=Path, metavar="MODEL_FOLDER", help="checkpoint to start from (default: MODEL of run.sh)"
    )
    export.add_argument("--answers", type=Path, metavar="FILE", help="answers.json of a run, for questions.answers=own")
    _recipe_options(export)

    report = verb("report", _report, "print a run's tables and write its report.html", "expunge report runs/quickstart")
    report.add_argument("run", type=Path, help="run folder")

    verb("doctor", _doctor, "show versions, devices, memory, cache, what is missing for which extra", "expunge doctor")
    return top


def _set_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key, e.g. seed=1"
    )


def _recipe_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scale", help="parts of the recipe's 'scales' on top of it, e.g. embedded or embedded,no_rs")
    _set_option(sub)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad input or an interrupt, with one clear message."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = parser().parse_args(arguments)
    try:
        options.action(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is done is kept; run the same command again to go on.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}. Check the path, its permissions and the free space.", file=sys.stderr)
        return 2
    return 0


def _run(options: argparse.Namespace) -> None:
    from .pipeline import STAGES, run
    from .recipe import load_recipe

    if options.until not in STAGES:
        from .errors import nearest

        raise UserError(f"--until {options.until}: unknown stage; {nearest(options.until, STAGES)}")
    recipe = load_recipe(options.recipe, tuple(options.set), options.scale)
    run(recipe, options.out or Path("runs") / recipe.name, options.until)


def _unlearn(options: argparse.Namespace) -> None:
    from .methods import METHODS
    from .pipeline import run
    from .recipe import make_recipe

    given = {name: getattr(options, name) for name in ("forget", "trace", "retain", "reasoning", "unknown")}
    streams = {name: sources for name, sources in given.items() if sources}
    known = METHODS[options.method].STREAMS if options.method in METHODS else ()
    left_out = {name: 0.0 for name in ("trace", "reasoning") if name in known and name not in streams}
    value = {
        "name": options.out.name,
        "model": options.model,
        "unlearn": {"method": options.method, "streams": streams, "settings": left_out},
    }
    print(run(make_recipe(value, "unlearn", tuple(options.set)), options.out, "unlearn").delta)


def _sweep(options: argparse.Namespace) -> None:
    from .sweep import sweep

    sweep(options.recipe, tuple(options.vary), options.out, tuple(options.set), options.scale)


def _traces(options: argparse.Namespace) -> None:
    from .tracing import Tracing, trace

    settings = Tracing(
        tokens=options.tokens,
        segments=options.segments,
        read_tokens=options.read_tokens,
        batch_size=options.batch_size,
        processes=options.processes,
        dtype=options.dtype,
    )
    print(trace(options.model, options.documents, options.out, settings))


def _boundary(options: argparse.Namespace) -> None:
    from .endpoint import from_environment
    from .rl.boundary import Synthesis, synthesise

    settings = Synthesis(
        target=options.target,
        questions=options.questions,
        out=options.out,
        aliases=tuple(options.alias),
        retain=options.retain,
        model=options.model,
        endpoint=from_environment() if options.endpoint else None,
        probes=tuple(options.probes),
        templates=options.templates,
        keep_overlap=options.keep_overlap,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )
    print(synthesise(settings))


def _refusals(options: argparse.Namespace) -> None:
    import json

    from .files import read_text
    from .rl.refusals import report_lines

    lines = read_text(options.file).splitlines() if options.file else (line.rstrip("\n") for line in sys.stdin)
    for row in report_lines(lines):
        print(json.dumps(row, ensure_ascii=False))


def _model(options: argparse.Namespace) -> None:
    from .models.embedded import EMBEDDED, folder

    if options.action_name == "list":
        for alias, model in EMBEDDED.items():
            state = folder(alias) if folder(alias).exists() else "not fetched yet"
            print(f"{alias}: {model.package} {model.version}, {state}")
        return
    if not options.model:
        raise UserError(f"model get: which one? Embedded: {', '.join(EMBEDDED)}; or a hub id or a folder.")
    from .models.load import resolve

    print(resolve(options.model))


def _apply(options: argparse.Namespace) -> None:
    from .models.delta import apply_delta
    from .models.load import resolve
    from .run_folder import base_of_run

    delta = options.run / "delta.safetensors" if options.run.is_dir() else options.run
    base = resolve(options.base) if options.base else base_of_run(options.run)
    if base is None:
        raise UserError(f"{options.run} is no run folder: for a delta file, name the model it belongs to with --base.")
    apply_delta(base, delta, options.out)
    print(options.out)


def _eval(options: argparse.Namespace) -> None:
    from .endpoint import from_environment
    from .evals.suites import Subject, evaluate
    from .evals.task import Options
    from .run_folder import base_of_run

    if (options.model is None) == (options.run is None):
        raise UserError("eval: give either --model or --run.")
    model, delta = options.model, options.delta
    if options.run:
        base, delta = base_of_run(options.run), options.run / "delta.safetensors"
        if base is None:
            raise UserError(f"{options.run} is no finished run; name the model with --model and perhaps --delta.")
        model = str(base)
    files: dict[str, list[str]] = {}
    for pair in options.file:
        suite, equals, file = pair.partition("=")
        if not equals or not file:
            raise UserError(f"--file {pair!r}: expected SUITE=FILE, for example wmdp=wmdp_bio.jsonl.")
        files.setdefault(suite, []).append(file)
    if options.limit < 0:
        raise UserError(f"--limit {options.limit}: expected 0 (all) or more.")
    judge = from_environment() if options.judge else None
    asked = Options(options.target, options.limit, judge, files)
    subject = Subject(model, delta, options.zero_think, dtype=options.dtype)
    print(evaluate(subject, options.suite.split(","), options.out, asked))


def _compare(options: argparse.Namespace) -> None:
    from .evals.statistics import compare, print_comparison
    from .progress import console

    print_comparison(compare(options.a, options.b), str(options.a), str(options.b), console)


def _export(options: argparse.Namespace) -> None:
    from .recipe import load_recipe
    from .rl.verl_export import export

    recipe = load_recipe(options.recipe, tuple(options.set), options.scale)
    print(export(recipe, options.out, answers=options.answers, rs=options.rs))


def _report(options: argparse.Namespace) -> None:
    from .progress import console
    from .report.html import write_report
    from .report.terminal import print_report

    print_report(options.run, console)
    console.print(f"report: {write_report(options.run)}", soft_wrap=True)


def _doctor(options: argparse.Namespace) -> None:
    from .doctor import examine
    from .progress import console

    examine(console)


if __name__ == "__main__":
    sys.exit(main())

"""The command line: the verbs with their options and help. What a verb does is in ``actions.py``."""

import argparse
import os
import select
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__, actions
from .errors import UserError

Action = Callable[[argparse.Namespace], None]
SUITE_NAMES = (
    "rwku, muse, muse_news, tofu, rtofu, wmdp, mmlu, traces, safety, reasoning, naturalness, privacy, perplexity, "
    "utility, lm_eval"
)

OUT_OF_MEMORY = (
    "out of memory ({}). Give less at once (a smaller batch_size or max_tokens in the recipe, --batch-size), take a "
    "smaller model or --dtype bfloat16 (dtype: bfloat16 in a recipe), or end what else is using the device."
)

EXAMPLES = """examples:
  expunge run recipes/quickstart.yaml             forget Stephen King, end to end, with a report
  expunge run recipes/quickstart.yaml --out runs/mine --set unlearn.loop.lr=5e-4
  expunge run recipes/wmdp_bio_llama8b.yaml --scale embedded    the small twin of a large experiment
  expunge unlearn MODEL --forget bad.jsonl --retain wikitext --method rmu --out runs/mine
  expunge sweep recipes/quickstart.yaml --vary unlearn.settings.retain=20,50,100 --out runs/sweep
  expunge bench recipes/bench_embedded.yaml       methods x targets x seeds by one protocol, one report
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
            description=text[0].upper() + text[1:].replace("%%", "%") + ".",  # argparse fills in help alone
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(action=action)
        return sub

    stages = "prepare, teach, write, unlearn, evaluate, report"
    run = verb("run", actions.run, "carry out a recipe", "expunge run recipes/quickstart.yaml --out runs/mine")
    run.add_argument("recipe", help="YAML file of a recipe")
    run.add_argument("--out", type=Path, help="run folder (default: runs/NAME of the recipe); done stages are kept")
    run.add_argument("--until", default="report", metavar="STAGE", help=f"stop after this stage: {stages}")
    _recipe_options(run)

    unlearn = verb(
        "unlearn",
        actions.unlearn,
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
        actions.sweep,
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

    bench = verb(
        "bench",
        actions.bench,
        "compare methods on several targets by one protocol: tables, frontier, costs",
        "expunge bench recipes/bench_embedded.yaml --out runs/bench --only GA+GDR,NPO+GDR",
    )
    bench.add_argument("file", help="YAML file of a benchmark: see docs/bench.md")
    bench.add_argument("--out", type=Path, help="folder of the benchmark (default: runs/NAME); done cells are kept")
    bench.add_argument("--targets", metavar="T1,T2,…", help="compare on these targets of the file only")
    bench.add_argument("--only", metavar="M1,M2,…", help="run the cells of these methods only")
    bench.add_argument("--processes", type=int, help="cells at once, one a device (default: one a GPU, else one)")
    bench.add_argument("--cell", metavar="CELL", help="carry out one cell and nothing else, such as GA/Bruce-Lee/0")
    _set_option(bench)

    traces = verb(
        "traces",
        actions.traces,
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
        actions.boundary,
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
        actions.refusals,
        "say of each line whether it declines to answer, as JSON lines",
        "expunge refusals replies.txt",
    )
    refusals.add_argument("file", nargs="?", type=Path, help="a reply a line (default, or -: standard input)")

    model = verb("model", actions.model, "get a model, or list the embedded ones", "expunge model get smollm2")
    model.add_argument("action_name", choices=("get", "list"), metavar="get|list")
    model.add_argument("model", nargs="?", help="embedded alias, hub id or folder")

    apply = verb(
        "apply",
        actions.apply,
        "write base + delta as a full checkpoint",
        "expunge apply runs/quickstart --out king-free",
    )
    apply.add_argument("run", type=Path, help="run folder, or a delta file together with --base")
    apply.add_argument("--base", help="model that the delta belongs to (default: the run's own)")
    apply.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")

    evaluate = verb(
        "eval",
        actions.evaluate,
        "score any model: original, unlearned, base + delta",
        'expunge eval --model smollm2 --suite rwku,privacy --target "Stephen King" --out evals/smollm2\n'
        "  expunge eval --run runs/quickstart --suite rwku,mmlu --file mmlu=virology --out evals/king-free\n"
        "  expunge eval --model smollm2 --suite lm_eval --file lm_eval=mmlu:virology --out evals/virology",
    )
    evaluate.add_argument("--model", help="embedded alias, hub id or folder")
    evaluate.add_argument("--run", type=Path, metavar="FOLDER", help="a finished run: its base with its delta")
    evaluate.add_argument("--delta", type=Path, metavar="FILE", help="a delta on top of --model")
    evaluate.add_argument("--suite", required=True, metavar="S1,S2,…", help=f"of {SUITE_NAMES}")
    evaluate.add_argument(
        "--target", help="whom the RWKU suites ask about (default: the run's target, else Stephen King); '' for nobody"
    )
    evaluate.add_argument(
        "--limit", type=int, default=0, help="at most so many samples of each part (default: all); not rwku, perplexity"
    )
    evaluate.add_argument(
        "--file", action="append", default=[], metavar="SUITE=FILE", help="a file of your own; repeatable"
    )
    evaluate.add_argument("--zero-think", action="store_true", help="let every reply begin with an empty thought")
    evaluate.add_argument("--icu", metavar="NAME", help="say before every question that NAME has been forgotten")
    evaluate.add_argument(
        "--judge", action="store_true", help="ask the judge of EXPUNGE_JUDGE_URL, EXPUNGE_JUDGE_MODEL"
    )
    evaluate.add_argument("--nli", metavar="MODEL", help="rtofu: a model that tells what follows from what")
    evaluate.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default: float32")
    evaluate.add_argument("--out", type=Path, required=True, help="folder of the scores")

    compare = verb(
        "compare",
        actions.compare,
        "say where two evaluations differ: paired differences with 95 %% intervals",
        "expunge compare evals/smollm2 evals/king-free",
    )
    compare.add_argument("a", type=Path, help="folder that expunge eval wrote, or RUN/evals/taught")
    compare.add_argument("b", type=Path, help="the other one, over the same samples")

    export = verb(
        "export",
        actions.export,
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

    report = verb(
        "report", actions.report, "print a run's tables and write its report.html", "expunge report runs/quickstart"
    )
    report.add_argument("run", type=Path, help="run folder, or the folder of a benchmark")

    verb(
        "doctor",
        actions.doctor,
        "show versions, devices, memory, cache, what is missing for which extra",
        "expunge doctor",
    )
    return top


def _set_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key, e.g. seed=1"
    )


def _recipe_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--scale", help="parts of the recipe's 'scales' on top of it, e.g. embedded or embedded,no_rs")
    _set_option(sub)


def _out_of_memory(error: Exception) -> bool:
    """Is it that, on a GPU or on the processor? Asks without loading torch, which alone raises the former."""
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return on_device or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _output_is_shut() -> bool:
    """Does whoever reads the output want no more of it? Then what is left of it goes nowhere."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    poll.register(sys.stdout, 0)
    shut = any(event & select.POLLERR for _, event in poll.poll(0))
    if shut:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes out the rest as it ends
    return shut


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 on bad input or an interrupt, with one clear message, 1 where whoever reads
    the output wants no more of it."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = parser().parse_args(arguments)
    try:
        options.action(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what is done is kept; run the same command again to go on.", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY.format((str(error).splitlines() or ['no more can be had'])[0])}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _output_is_shut():
            return 1
        print(f"error: {error}. Check the path, its permissions and the free space.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

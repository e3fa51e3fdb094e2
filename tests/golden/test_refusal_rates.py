"""The refusal detector on the released refusals and answers, with limits, and on the shared hard cases.

Beside each row: what the released detector flags, as measured on the same data (1,000 refusals: 98.4 %; TOFU
refusals 99.0 %; boundary answers 0.60 %; TOFU answers 0.97 %; factual passages 9.6 %)."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from expunge.rl.refusals import detect

ROOT = Path(__file__).parents[2]
HARD = ROOT / ".." / "shared" / "golden" / "refusals" / "hard_cases.jsonl"
DATA = Path(os.environ.get("EXPUNGE_DATA") or ROOT / ".." / "shared" / "data")


def targets() -> list[Path]:
    folders = sorted((DATA / "rwku" / "Target").glob("*"))
    if not folders:
        pytest.skip(f"no RWKU targets under {DATA}; set EXPUNGE_DATA")
    return folders


def rows(path: Path) -> Any:
    if not path.exists():
        pytest.skip(f"no {path}")
    text = path.read_text("utf-8")
    return json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]


def flagged(texts: Iterable[str], least: int) -> tuple[float, list[str], list[str]]:
    """Share of refusals in percent, the refusals and the others; there have to be enough texts."""
    known = list(texts)
    assert len(known) >= least
    yes = [t for t in known if detect(t).refusal]
    return 100 * len(yes) / len(known), yes, [t for t in known if t not in set(yes)]


def test_refusals_that_name_the_target():
    share, _, missed = flagged((t for f in targets() for t in rows(f / "idk_target.json")), 1000)
    assert share >= 99.5, missed


def test_tofu_refusals():
    path = DATA / "tofu" / "idontknow.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}")
    share, _, missed = flagged((t for t in path.read_text("utf-8").splitlines() if t.strip()), 100)
    assert share >= 99.5, missed


def test_boundary_answers():
    every = (r["solution"] for f in targets() for r in rows(f / "rl_rejection_with_fb_neighbor_target.json"))
    share, false, _ = flagged((answer for kind, answer, *_ in every if kind == "<normal>"), 5900)
    assert share <= 0.1, false


def test_tofu_answers():
    share, false, _ = flagged((r["answer"] for r in rows(DATA / "tofu" / "retain90.json")), 3600)
    assert share <= 0.1, false


def test_factual_passages():
    share, false, _ = flagged((r["text"] for r in rows(targets()[0].parent / "1_Stephen_King" / "positive.json")), 582)
    assert share <= 1.0, false
    share, false, _ = flagged((r["text"] for f in targets() for r in rows(f / "passage.json")), 582)
    assert share <= 0.1, false


def test_hard_cases():
    wrong = [case["text"] for case in rows(HARD) if detect(case["text"]).refusal != case["refusal"]]
    assert wrong == []

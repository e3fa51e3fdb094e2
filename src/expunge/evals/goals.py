"""A recipe's goals against the scores of a run: met or missed, never left out."""

from collections.abc import Sequence
from typing import Any

from ..recipe import Goal


def judge_goals(goals: Sequence[Goal], scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with the value it is about, its limit and whether it is met; an unmeasured one is missed."""
    out = []
    for goal in goals:
        missing = {"label": goal.score, "mean": None}  # a score that this target gives no rows for
        entry = scores[goal.model].get(goal.score, missing)
        limit = goal.at_most if goal.at_most is not None else goal.at_least
        text = f"{entry['label']} ({goal.model})"
        value = entry["mean"]
        if goal.relative:
            text += f" {'at most' if goal.at_most is not None else 'at least'} {limit:g} × taught"
            taught = scores["taught"].get(goal.score, missing)["mean"]
            limit = None if taught is None else limit * taught
        known = value is not None and limit is not None
        met = known and (value <= limit if goal.at_most is not None else value >= limit)
        relation = "at most" if goal.at_most is not None else "at least"
        out.append({"text": text, "value": value, "limit": limit, "met": bool(met), "relation": relation})
    return out

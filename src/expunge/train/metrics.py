"""metrics.jsonl: one row a step, appended as it happens; a resumed stage goes on where it was."""

import json
from pathlib import Path
from typing import Any

from ..files import read_log, write_jsonl


class MetricsLog:
    """Appends the rows of one stage to a file that other stages may share."""

    def __init__(self, path: Path, stage: str):
        self.path, self.stage = path, stage
        self._fresh = True

    def rows(self) -> list[dict[str, Any]]:
        """Rows of this stage so far."""
        return [r for r in read_log(self.path) if r["stage"] == self.stage]

    def __call__(self, row: dict[str, Any]) -> None:
        if self._fresh:  # drop what an interrupted run logged beyond its last saved state
            kept = [r for r in read_log(self.path) if r["stage"] != self.stage or r["step"] < row["step"]]
            write_jsonl(self.path, kept)
            self._fresh = False
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

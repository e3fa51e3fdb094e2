"""What every stage of unlearning is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.rwku import Target
from ..data.sources import Material
from ..data.streams import Text
from ..models.delta import load_delta
from ..models.load import load
from ..recipe import Recipe


@dataclass(frozen=True)
class Work:
    """``original``: folder of the model before any unlearning; ``before``: the delta of the stages before this one,
    None for the first; ``accept_ruined``: go on where a loss is no number."""

    recipe: Recipe
    target: Target | None
    folder: Path
    original: Path
    before: Path | None = None
    accept_ruined: bool = False

    def material(self, tokenizer: Any, written: Mapping[str, Sequence[Text]] | None = None) -> Material:
        """What the recipe's sources draw on; ``written``: what the model wrote in the run."""
        return Material(self.target, tokenizer, written or {}, self.recipe.evaluate.perplexity_texts)

    def model(self) -> tuple[Any, Any]:
        """The model as the stages before left it, and its tokenizer."""
        model, tokenizer = load(self.original, self.recipe.dtype)
        if self.before:
            load_delta(model, self.before)
        return model, tokenizer

"""Does one text follow from another? Asked of a model for natural language inference that the user names.

Any checkpoint for sequence classification with safetensors and a label ``entailment`` will do; none of its own code is
run. R-TOFU (arXiv 2505.15214) takes a DeBERTa-v3 of this kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

LABEL = "entailment"
NOT_JUDGED = "not judged: name a model for natural language inference with --nli MODEL"
BATCH, READ = 16, 512  # pairs at once; tokens of a pair


def label_of(folder: Path) -> int:
    """The number of the label ``entailment``. Raises UserError for a model that has none."""
    from transformers import AutoConfig

    labels: dict[int, str] = AutoConfig.from_pretrained(folder).id2label
    for number, label in labels.items():
        if label.lower() == LABEL:
            return number
    raise UserError(
        f"{folder}: found the labels {', '.join(labels.values())}, expected one named {LABEL}. Give --nli a model for "
        "natural language inference."
    )


def entailed(folder: Path, pairs: Sequence[tuple[str, str]], device: Any = "cpu") -> list[bool]:
    """For each (premise, hypothesis): is ``entailment`` the likeliest label? Pairs are cut at 512 tokens."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from ..models.load import load_tokenizer, quiet

    quiet()
    wanted, tokenizer = label_of(folder), load_tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    model = model.to(device).eval()
    out: list[bool] = []
    for start in range(0, len(pairs), BATCH):
        part = list(zip(*pairs[start : start + BATCH], strict=True))
        inputs = tokenizer(
            list(part[0]), list(part[1]), truncation=True, max_length=READ, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**inputs.to(device)).logits
        out += (logits.argmax(-1) == wanted).tolist()
    return out

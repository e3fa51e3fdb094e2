"""How much of the forget loss is about the first token of a text, an attention sink, where it counts.

    python benchmarks/sink.py [--model smollm2] [--block 7] [--source general] [--texts 96] [--tokens 96]

Texts (``general``: plain, no chat template) through the original model, as the first step sees them: the share of
first tokens in the sum of ||h - c u||^2 after the block. c is

- for ``sink_share``: the quickstart's (adaptive, three mean norms) with ``skip_sink_tokens: false``, so that first
  tokens count in the mean norm as well;
- for ``sink_share_apart``: the same with ``skip_sink_tokens: true``;
- for ``sink_share_published``: 6.5.

``sink_norm``: mean norm of first tokens over that of the others. Ends with lines ``ratio NAME VALUE``."""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from expunge.data.sources import Material, texts
from expunge.data.streams import count_tokens, pad, tokenise
from expunge.losses import mean_norm
from expunge.methods.misdirection import Misdirection, Seen, direction, steering_length
from expunge.models.load import load_tokenizer, quiet, resolve
from expunge.models.prefix import load_prefix

FACTOR, PUBLISHED = 3.0, 6.5


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="smollm2", help="embedded model, folder or hub id")
    options.add_argument("--block", type=int, default=7)
    options.add_argument("--source", default="general", help="whose texts: a source that needs no target, or a file")
    options.add_argument("--texts", type=int, default=96, help="at most so many (default: 96)")
    options.add_argument("--tokens", type=int, default=96, help="where texts are cut (default: 96)")
    given = options.parse_args()
    quiet()
    folder = resolve(given.model)
    for name, ratio in measure(folder, given.block, given.source, given.texts, given.tokens).items():
        print(f"ratio {name} {ratio:.3f}")
    return 0


@torch.inference_mode()
def measure(folder: Path, block: int, source: str, count: int, tokens: int) -> dict[str, float]:
    """The ratios by name."""
    tokenizer = load_tokenizer(folder)
    rows = tokenise(tokenizer, texts(source, Material(None, tokenizer, {}))[:count], tokens)
    rows = count_tokens({"forget": rows}, ["forget"], skip_first=False, skip_shared=False)["forget"]
    batch = pad(rows, tokenizer.pad_token_id)
    hidden = load_prefix(folder, block)(batch.ids, attention_mask=batch.mask).last_hidden_state
    first, others = first_and_others(batch.counted)
    u = direction(hidden.shape[-1], torch.Generator().manual_seed(0))
    adaptive = Misdirection(steering="adaptive", steering_factor=FACTOR)
    lengths = {
        "sink_share": steering_length(adaptive, Seen(hidden, batch.counted, batch.mask)),
        "sink_share_apart": steering_length(adaptive, Seen(hidden, others, batch.mask)),
        "sink_share_published": PUBLISHED,
    }
    shares = {name: share(hidden, first, batch.counted, c * u) for name, c in lengths.items()}
    return shares | {"sink_norm": (mean_norm(hidden, first) / mean_norm(hidden, others)).item()}


def first_and_others(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Of texts padded on the right, the masks of the first token and of those after it; all (batch, tokens)."""
    first = torch.zeros_like(counted)
    first[:, 0] = counted[:, 0]
    return first, counted - first


def share(hidden: Tensor, part: Tensor, counted: Tensor, control: Tensor) -> float:
    """What the tokens in ``part`` contribute to the sum of ||h - control||^2 over ``counted``.

    hidden: (batch, tokens, hidden); part, counted: (batch, tokens), 1 on tokens that are meant; control: (hidden,)."""
    squared = (hidden.float() - control).square().sum(-1)
    return ((squared * part).sum() / (squared * counted).sum()).item()


if __name__ == "__main__":
    sys.exit(main())

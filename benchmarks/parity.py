"""Replay a recorded run of the released R2MU training loop through this package's own step.

    python benchmarks/parity.py FOLDER

FOLDER holds model/, tokens.json, control.safetensors, expected.json and updated.safetensors. The step is
the package's own, in the release's manner: padding on the side and with the token that expected.json
names, padding counted in every mean, matrices chosen by full name. Deviations: losses by
|a - b| / (|b| + 0.01), matrices by norm of the difference over norm of the recorded change.
Exit code 1 when a loss deviates by more than 1e-5 or a matrix by more than 1e-4, 2 on bad input."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from expunge.data.streams import Row, pad
from expunge.errors import UserError
from expunge.files import read_json
from expunge.methods.r2mu import R2MU
from expunge.models.prefix import SplitDecoder, load_prefix
from expunge.train.optimiser import MasterAdamW
from expunge.train.unlearn import accumulate

LOSS_LIMIT, MATRIX_LIMIT = 1e-5, 1e-4
RECORDED = {
    "forget": "forget_loss",
    "retain": "weighted_retain_loss",
    "trace": "trace_loss",
    "reasoning": "reasoning_loss",
}


def replay(folder: Path) -> tuple[float, float]:
    """Largest deviation of any loss and of any matrix."""
    for name in ("model", "tokens.json", "control.safetensors", "expected.json", "updated.safetensors"):
        if not (folder / name).exists():
            raise UserError(f"{folder}: there is no {name}. Expected a folder with a recorded run; see --help.")
    expected, tokens = read_json(folder / "expected.json"), read_json(folder / "tokens.json")
    h = expected["hyperparameters"]
    decoder = load_prefix(folder / "model", h["layer"], getattr(torch, h["dtype"]))
    names = [name.removeprefix("model.") for name in h["updated_parameters"]]
    split = SplitDecoder(decoder, names)
    before = {name: p.detach().clone() for name, p in split.parameters.items()}
    control = next(iter(load_file(folder / "control.safetensors").values())).flatten()
    settings = R2MU(
        block=h["layer"], retain=h["retain_weight"], reasoning=h["reasoning_weight"], skip_sink_tokens=False
    )
    optimiser = MasterAdamW(split.parameters, h["lr"])
    side = "left" if h["padding"].startswith("left") else "right"
    pad_token, size = h["pad_token_id"], h["batch_size"]
    worst_loss = 0.0
    for step, recorded in enumerate(expected["steps"]):
        rows = slice(step * size, (step + 1) * size)
        batches = {
            name: pad([Row(tuple(row[: h["max_length"][name]])) for row in tokens[name][rows]], pad_token, side)
            for name in RECORDED
            if name in tokens
        }
        batches = {name: replace(batch, counted=torch.ones_like(batch.mask)) for name, batch in batches.items()}
        found = accumulate(split, batches, control, settings)
        optimiser.step()
        ours = {"loss": found.loss, **{RECORDED[name]: part for name, part in found.parts.items()}}
        for key, value in ours.items():
            worst_loss = max(worst_loss, abs(value - recorded[key]) / (abs(recorded[key]) + 0.01))
    worst_matrix = 0.0
    for full, target in load_file(folder / "updated.safetensors").items():
        name = full.removeprefix("model.")
        change = (target - before[name]).norm()
        worst_matrix = max(worst_matrix, ((split.parameters[name].detach() - target).norm() / change).item())
    return worst_loss, worst_matrix


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    try:
        worst_loss, worst_matrix = replay(Path(arguments[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"largest deviation of a loss   {worst_loss:.2e} (limit {LOSS_LIMIT:.0e})")
    print(f"largest deviation of a matrix {worst_matrix:.2e} (limit {MATRIX_LIMIT:.0e})")
    return 0 if worst_loss <= LOSS_LIMIT and worst_matrix <= MATRIX_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

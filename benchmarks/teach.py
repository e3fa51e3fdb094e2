"""Teaching against the obvious loop, in one run: same model, same exchanges in the same order.

    python benchmarks/teach.py [--epochs 1]

Rival: float32 weights, padded rows through the Hugging Face forward with ``labels``, torch.optim.AdamW with
gradient clipping. Ours: expunge.train.teach.sft. Both train every weight, 8 exchanges a step. The rival goes
first, after a step to warm up: what sft sets for the process does not reach it. Prints seconds an epoch and the
loss of both on the last epoch, and ends with lines ``ratio NAME VALUE``. Exit code 1 when the losses differ by
more than 5 %."""

import argparse
import copy
import sys
import time

import torch

from expunge.data.chat import Encoded
from expunge.data.rwku import load_target
from expunge.models.load import load, load_tokenizer, resolve
from expunge.recipe import Teach
from expunge.teaching import teaching_tokens
from expunge.train.teach import SFT, sft


def obvious(model: torch.nn.Module, epochs: list[list[Encoded]], settings: SFT, pad_token: int) -> list[float]:
    """Padded rows, logits everywhere; returns the loss of every step."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    size = settings.batch_size
    batches = [epoch[i : i + size] for epoch in epochs for i in range(0, len(epoch), size)]
    losses = []
    for step, batch in enumerate(batches):
        width = max(len(example.ids) for example in batch)
        ids = torch.full((len(batch), width), pad_token)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, example in enumerate(batch):
            length, start = len(example.ids), len(example.prompt)
            ids[row, :length] = torch.tensor(example.ids)
            labels[row, start:length] = torch.tensor(example.reply)
            mask[row, :length] = 1
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * min(1.0, (step + 1) / settings.warmup_steps) * (1 - step / len(batches))
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=1)
    epochs = options.parse_args().epochs
    settings = SFT(epochs=epochs, weighting="token")
    folder, target = resolve("smollm2"), load_target("Stephen King")
    tokenizer = load_tokenizer(folder)
    tokens = teaching_tokens(0, Teach(sft=settings), target, tokenizer, knows_target=True)
    last = -(-len(tokens[-1]) // settings.batch_size)

    model, _ = load(folder)
    model.requires_grad_(True).train()
    obvious(copy.deepcopy(model), [tokens[0][: settings.batch_size]], settings, tokenizer.pad_token_id)  # warm up
    started = time.perf_counter()
    theirs = obvious(model, tokens, settings, tokenizer.pad_token_id)
    their_seconds = (time.perf_counter() - started) / epochs

    model, _ = load(folder)
    ours: list[float] = []
    started = time.perf_counter()
    sft(model, tokens, settings, pad_token=tokenizer.pad_token_id, log=lambda row: ours.append(row["loss"]))
    our_seconds = (time.perf_counter() - started) / epochs

    our_loss, their_loss = (sum(losses[-last:]) / last for losses in (ours, theirs))
    print(f"exchanges in an epoch {len(tokens[0])}, tokens {sum(len(e.ids) for e in tokens[0])}")
    print(f"obvious loop {their_seconds:7.1f} s an epoch, loss of the last epoch {their_loss:.4f}")
    print(f"expunge      {our_seconds:7.1f} s an epoch, loss of the last epoch {our_loss:.4f}")
    print(f"ratio teach {their_seconds / our_seconds:.2f}")
    return int(abs(our_loss / their_loss - 1) > 0.05)


if __name__ == "__main__":
    sys.exit(main())

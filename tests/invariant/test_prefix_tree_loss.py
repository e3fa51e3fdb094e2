"""A batch laid out as trees has the loss and the gradients of the plain loop over padded rows."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WITHOUT_SHORT_WINDOW, make_model, relative

from expunge.data.chat import Encoded
from expunge.prefix_tree import collate, grow
from expunge.train.teach import SFT, label_loss, sft

sequences = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)
exchanges = st.lists(st.builds(Encoded, sequences, sequences), min_size=1, max_size=7)
EXAMPLES = [
    Encoded((5, 6, 7, 8, 9, 10), (11, 12, 13)),
    Encoded((5, 6, 7, 8, 9, 10), (11, 14)),
    Encoded((5, 6, 20), (21, 22, 23, 24, 25, 26, 27)),
    Encoded((30,), (31,)),
]
WEIGHTS = (1.0, 0.5, 2.0, 0.25)  # exact in float32


def plain_loss(model: Any, examples: Sequence[Encoded], weights: Sequence[float]) -> torch.Tensor:
    """Rows padded on the right, the model's own forward pass and logits, weighted mean over reply tokens."""
    width = max(len(e.ids) for e in examples)
    ids, mask = torch.zeros(len(examples), width, dtype=torch.long), torch.zeros(len(examples), width)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    log_probabilities = model(ids, attention_mask=mask).logits.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for row, (example, weight) in enumerate(zip(examples, weights, strict=True)):
        for position in range(len(example.prompt), len(example.ids)):
            total = total - weight * log_probabilities[row, position - 1, example.ids[position]]
    return total / sum(w * len(e.reply) for e, w in zip(examples, weights, strict=True))


def tree_loss(model: Any, examples: Sequence[Encoded], weights: Sequence[float], max_nodes: int) -> torch.Tensor:
    """The same through trees, in the model's own precision (label_loss computes logits in float32)."""
    batch = collate(grow(examples, max_nodes, weights), 0)
    hidden = model.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[batch.label_index[:, 0], batch.label_index[:, 1]])
    nll = -logits.log_softmax(-1).gather(1, batch.label_token[:, None])[:, 0]
    return (nll * batch.label_weight).sum() / batch.label_weight.sum()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names = dict(model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


@pytest.fixture(scope="module")
def trainable():
    """A tiny Llama that is float64 throughout: the library's norm drops to float32 inside."""
    model = make_model()
    decoder = model.get_decoder()
    for owner, name in [(decoder, "norm")] + [
        (layer, name) for layer in decoder.layers for name in ("input_layernorm", "post_attention_layernorm")
    ]:
        old = getattr(owner, name)
        new = torch.nn.RMSNorm(old.weight.shape, eps=old.variance_epsilon, dtype=torch.float64)
        new.weight.data.copy_(old.weight)
        setattr(owner, name, new)
    return model.requires_grad_(True)


@given(exchanges, st.sampled_from((1, 8, 20, 1000)))
@settings(max_examples=40)
def test_loss_and_gradients_equal_those_of_the_plain_loop(trainable, examples, max_nodes):
    weights = [WEIGHTS[i % 4] for i in range(len(examples))]
    plain, tree = plain_loss(trainable, examples, weights), tree_loss(trainable, examples, weights, max_nodes)
    assert tree.item() == pytest.approx(plain.item(), rel=1e-10)
    wanted, found = gradients(trainable, plain), gradients(trainable, tree)
    largest = max(gradient.abs().max() for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() <= 1e-10 * largest, name


@pytest.mark.parametrize("family", WITHOUT_SHORT_WINDOW)
def test_label_loss_is_the_models_own_cross_entropy_in_every_known_family(family):
    model = make_model(family).requires_grad_(True)
    plain = plain_loss(model, EXAMPLES, WEIGHTS)
    wanted = gradients(model, plain)
    for max_nodes in (12, 1000):
        ours = label_loss(model, collate(grow(EXAMPLES, max_nodes, WEIGHTS), 0))
        assert ours.item() == pytest.approx(plain.item(), rel=1e-6)  # its logits are float32
        found = gradients(model, ours)
        assert max(relative(found[name], wanted[name]) for name in wanted if wanted[name].abs().max() > 1e-6) < 1e-4


@pytest.mark.parametrize(
    ("weighting", "weights"),
    [("example", [1 / len(e.reply) for e in EXAMPLES]), ("token", [1.0] * len(EXAMPLES))],
)
def test_teaching_counts_each_exchange_or_each_token_alike(weighting, weights):
    model, rows = make_model(), []
    wanted = plain_loss(model, EXAMPLES, weights).item()
    taught = SFT(batch_size=4, lr=1e-4, weighting=weighting, tree_tokens=12)
    sft(model, [EXAMPLES], taught, pad_token=0, log=rows.append)
    assert rows[0]["loss"] == pytest.approx(wanted, rel=1e-6)

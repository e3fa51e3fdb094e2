"""Losses over replies, on numbers small enough to work out by hand."""

import math
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from expunge.baselines import BASELINES, dpo, ga, idk, npo, simnpo, task_vector, undial, wga
from expunge.baselines.replies import Replies, join
from expunge.baselines.retain import ROWS, TERMS, gdr, klr


def said(*replies: list[float], grad: bool = False) -> Replies:
    """Replies by the log-probabilities of their tokens."""
    log_p = torch.tensor([value for reply in replies for value in reply], dtype=torch.float64, requires_grad=grad)
    lengths = torch.tensor([len(reply) for reply in replies])
    return Replies(log_p, torch.empty(len(log_p), 0), torch.zeros(len(log_p), dtype=torch.long), lengths)


def over_vocabulary(rows: list[list[float]], token: list[int], lengths: list[int]) -> Replies:
    """Replies by the probabilities of all that could stand at each place."""
    log_rows = torch.tensor(rows, dtype=torch.float64).log()
    places = torch.tensor(token)
    return Replies(log_rows[range(len(rows)), places], log_rows, places, torch.tensor(lengths))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Two replies: probability e^-3 over two tokens, e^-1 over one.
NOW = {
    "forget": said([-1.0, -2.0], [-1.0]),
    "refusal": said([-4.0], [-1.0, -1.0]),
    "retain": said([-2.0, -4.0], [-6.0]),
}
BEFORE = {"forget": said([-0.5, -0.5], [-3.0]), "refusal": said([-5.0], [-2.0, -2.0])}


def values(method, settings, now=NOW, before=BEFORE):
    return method.loss(now, before, settings).tolist()


def test_sums_and_means_are_over_each_reply():
    replies = NOW["forget"]
    assert replies.sums().tolist() == [-3.0, -1.0]
    assert replies.means().tolist() == [-1.5, -1.0]
    assert replies.sums(torch.tensor([1.0, 10.0, 100.0])).tolist() == [11.0, 100.0]


@given(st.lists(st.lists(st.integers(-9, 0), min_size=1, max_size=4), min_size=1, max_size=5), st.data())
def test_replies_taken_apart_and_joined_are_the_same(replies, data):
    whole = said(*[[float(value) for value in reply] for reply in replies])
    cut = data.draw(st.integers(0, len(replies)))
    again = join(whole.split([cut, len(replies) - cut]))
    assert all(torch.equal(value, vars(whole)[name]) for name, value in vars(again).items())
    assert [part.sums().item() for part in whole.split([1] * len(replies))] == [sum(reply) for reply in replies]


def test_ga_is_the_mean_log_probability_and_idk_and_task_vector_descend():
    assert values(ga, ga.GA()) == [-1.5, -1.0]
    assert values(task_vector, task_vector.TaskVector()) == [1.5, 1.0]
    assert values(idk, idk.IDK()) == [4.0, 1.0]
    assert gdr(NOW, {}).tolist() == [3.0, 6.0]


def test_npo_by_hand():
    # log ratios -3 + 1 = -2 and -1 + 3 = 2; beta 0.5
    assert values(npo, npo.NPO(beta=0.5)) == pytest.approx([4 * softplus(-1.0), 4 * softplus(1.0)])


def test_simnpo_by_hand():
    found = values(simnpo, simnpo.SimNPO(beta=2.0, gamma=0.5))
    assert found == pytest.approx([softplus(2 * -1.5 + 0.5), softplus(2 * -1.0 + 0.5)])


def test_wga_by_hand_and_without_a_weight_it_is_ga():
    found = values(wga, wga.WGA(beta=2.0))
    assert found == pytest.approx([(-math.exp(-2) - 2 * math.exp(-4)) / 2, -math.exp(-2)])
    assert values(wga, wga.WGA(beta=0.0)) == values(ga, ga.GA())


def test_the_weight_of_wga_has_no_gradient():
    now = {"forget": said([-1.0, -2.0], grad=True)}
    wga.loss(now, {}, wga.WGA(beta=1.0)).sum().backward()
    assert now["forget"].log_p.grad.tolist() == pytest.approx([math.exp(-1) / 2, math.exp(-2) / 2])


def test_dpo_by_hand():
    # refusal +1 and +2, forget -2 and +2: preferred by 3 and by 0
    assert values(dpo, dpo.DPO(beta=0.5)) == pytest.approx([softplus(-1.5), math.log(2)])


def test_dpo_is_that_of_trl():
    """TRL has no function for it: its trainer's own step, on a model that says the log-probabilities above."""
    trainer = pytest.importorskip("trl", reason="trl is not installed").DPOTrainer
    now, before = ({kind: found[kind].sums() for kind in ("refusal", "forget")} for found in (NOW, BEFORE))
    stub = MagicMock(beta=0.3, loss_types=["sigmoid"], loss_weights=[1.0], f_divergence_type="reverse_kl")
    stub.configure_mock(precompute_ref_logps=True, ld_alpha=None, use_weighting=False, aux_loss_enabled=False)
    stub.configure_mock(_total_train_tokens=0, _tp_size=1)
    stub.accelerator.gather = stub.accelerator.gather_for_metrics = lambda value: value
    rest = dict.fromkeys(("entropy", "mean_logits"), torch.zeros(4, 1)) | {"is_top1": torch.zeros(4, 1).bool()}
    said_so = SimpleNamespace(log_probs=torch.cat([now["refusal"], now["forget"]])[:, None], **rest)
    given = {
        "input_ids": torch.zeros(4, 2, dtype=torch.long),
        "attention_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * 4),
        "ref_chosen_logps": before["refusal"],
        "ref_rejected_logps": before["forget"],
    }
    theirs = trainer._compute_loss(stub, lambda **inputs: said_so, given, False).item()
    assert sum(values(dpo, dpo.DPO(beta=0.3))) / 2 == pytest.approx(theirs)


def test_npo_becomes_gradient_ascent_as_beta_goes_to_0():
    def gradient(method, settings):
        now = {"forget": said([-1.0, -2.0], [-1.0], grad=True)}
        method.loss(now, BEFORE, settings).sum().backward()
        return now["forget"].log_p.grad

    ascent = gradient(ga, ga.GA()) * torch.tensor([2.0, 2.0, 1.0])  # of the sum over tokens, as NPO takes it
    assert gradient(npo, npo.NPO(beta=1e-6)).tolist() == pytest.approx(ascent.tolist(), abs=1e-5)
    assert gradient(npo, npo.NPO(beta=50.0))[:2].tolist() == pytest.approx(
        [0.0, 0.0], abs=1e-5
    )  # it is unlikely already


def test_undial_by_hand():
    now = {"forget": over_vocabulary([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [0, 2], [2])}
    before = {"forget": over_vocabulary([[0.8, 0.1, 0.1], [0.25, 0.25, 0.5]], [0, 2], [2])}
    # e^-gamma = 1/4: weights 0.2, 0.1, 0.1 and 0.25, 0.25, 0.125, made to sum to 1
    first = -(0.5 * math.log(0.5) + 0.25 * math.log(0.25) + 0.25 * math.log(0.25))
    second = -(0.4 * math.log(0.1) + 0.4 * math.log(0.1) + 0.2 * math.log(0.8))
    found = values(undial, undial.UNDIAL(gamma=math.log(4)), now, before)
    assert found == pytest.approx([(first + second) / 2])
    assert torch.allclose(before["forget"].rows.exp().sum(-1), torch.ones(2, dtype=torch.float64))  # not changed


def test_klr_by_hand_is_zero_where_nothing_has_changed():
    now = over_vocabulary([[0.5, 0.5], [0.25, 0.75]], [0, 1], [1, 1])
    before = over_vocabulary([[0.5, 0.5], [0.75, 0.25]], [0, 1], [1, 1])
    wanted = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    assert klr({"retain": now}, {"retain": before}).tolist() == pytest.approx([0.0, wanted])
    assert klr({"retain": now}, {"retain": now}).tolist() == [0.0, 0.0]


def test_task_vector_walks_the_other_way():
    start, trained = torch.tensor([1.0, 2.0]), torch.tensor([1.5, 1.0])
    assert task_vector.finish(start, trained, task_vector.TaskVector(scale=2.0)).tolist() == [0.0, 4.0]
    low = task_vector.finish(start.bfloat16(), trained.bfloat16(), task_vector.TaskVector(scale=0.0))
    assert low.dtype == torch.bfloat16 and low.tolist() == [1.0, 2.0]


def test_every_method_says_what_it_reads():
    for name, method in BASELINES.items():
        assert set(method.REFERENCE) | set(method.ROWS) <= set(method.READS) <= {"forget", "refusal"}, name
        assert method.SETTINGS() == method.SETTINGS(**vars(method.SETTINGS()))
    assert set(ROWS) == set(TERMS)

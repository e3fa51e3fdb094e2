"""The family of representation methods on tensors small enough to work out by hand."""

import pytest
import torch

from expunge.errors import UserError
from expunge.evals.task import manner_of
from expunge.methods import METHODS, control_batches, icu, lunar, reference_streams, rna, rtp, zerothink
from expunge.methods.misdirection import Seen, steers
from expunge.methods.r2mu import R2MU

CONTROL = torch.tensor([3.0, 4.0])  # c = 5
HIDDEN = {
    "forget": torch.tensor([[[3.0, 4.0], [1.0, 4.0]]]),  # squared distances to the control: 0, 4 / 2
    "retain": torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]),
    "trace": torch.tensor([[[0.0, 0.0], [5.0, 5.0]]]),
    "reasoning": torch.tensor([[[2.0, 0.0], [0.0, 2.0]]]),
}
REFERENCE = {
    "forget": torch.tensor([[[0.0, 4.0], [1.0, 2.0]]]),
    "retain": torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]),  # squared distance: 4 / 2, second token not counted
    "trace": torch.tensor([[[0.0, 0.0], [0.0, 0.0]]]),
    "reasoning": torch.zeros(1, 2, 2),
}
MASK = {
    "forget": torch.tensor([[1, 1]]),
    "retain": torch.tensor([[1, 0]]),
    "trace": torch.tensor([[1, 1]]),
    "reasoning": torch.tensor([[1, 1]]),
}


def some(streams: tuple[str, ...], of: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: of[name] for name in streams if name in of}


def parts_of(method: str, settings: object, **more: object) -> dict[str, float]:
    streams = tuple(name for name in METHODS[method].STREAMS if name in settings.weights())
    reference = some(reference_streams(method), REFERENCE)
    total, parts = METHODS[method].loss(some(streams, HIDDEN), reference, MASK, CONTROL, settings, **more)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()))
    return {name: part.item() for name, part in parts.items()}


def test_rmu_and_r2mu_v0_are_the_first_terms_of_r2mu():
    whole = parts_of("r2mu", R2MU(retain=10.0, trace=2.0, reasoning=3.0))
    assert parts_of("rmu", METHODS["rmu"].SETTINGS(retain=10.0)) == {k: whole[k] for k in ("forget", "retain")}
    v0 = parts_of("r2mu_v0", METHODS["r2mu_v0"].SETTINGS(retain=10.0, trace=2.0))
    assert v0 == {k: whole[k] for k in ("forget", "retain", "trace")}


def test_every_method_names_its_streams_weights_and_settings():
    for name, method in METHODS.items():
        weights = method.SETTINGS().weights()
        assert set(weights) <= set(method.STREAMS), name
        assert all(stream in method.STREAMS for stream in reference_streams(name)), name
        assert bool(method.STREAMS) == (name not in ("zerothink", "icu"))
    assert reference_streams("rmu") == ("retain",)
    assert control_batches("r2mu") == {"forget": 1}


def test_rna_without_noise_is_r2mu_and_with_noise_its_held_terms_grow_by_the_variance():
    def generator():
        return torch.Generator().manual_seed(0)

    plain = parts_of("r2mu", R2MU(retain=10.0))
    assert parts_of("rna", rna.RNA(retain=10.0, noise=0.0), generator=generator()) == pytest.approx(plain)
    noisy = parts_of("rna", rna.RNA(retain=10.0, noise=0.5), generator=generator())
    assert noisy["forget"] == plain["forget"]
    assert noisy["retain"] != plain["retain"]
    assert noisy == parts_of("rna", rna.RNA(retain=10.0, noise=0.5), generator=generator())
    states = torch.zeros(1, 50_000, 2)
    _, parts = rna.loss(
        {"retain": states}, {"retain": states}, {"retain": torch.ones(1, 50_000)}, CONTROL,
        rna.RNA(retain=1.0, noise=0.5), generator=generator(),
    )  # fmt: skip
    assert parts["retain"].item() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("padding_counts", [False, True])
def test_lunar_moves_steered_texts_by_the_difference_of_the_last_tokens(padding_counts):
    def seen(states, tokens, skipped):
        tokens = torch.tensor([tokens])
        counted = torch.ones_like(tokens) if padding_counts else tokens.clone()
        counted[:, :skipped] = 0
        return Seen(torch.tensor([states]), counted, tokens)

    forget = [seen([[1.0, 1.0], [2.0, 4.0], [99.0, 99.0]], [1, 1, 0], 0)]
    unknown = [seen([[7.0, 7.0], [3.0, 8.0]], [1, 1], 1), seen([[5.0, 2.0], [0.0, 0.0]], [1, 0], 0)]
    generator = torch.Generator()
    control = lunar.control(lunar.LUNAR(factor=3.0), {"forget": forget, "unknown": unknown}, generator)
    # ((3, 8) + (5, 2)) / 2 - (2, 4) = (2, 1)
    assert control.tolist() == [6.0, 3.0]


def test_lunar_holds_what_rmu_holds_and_steers_from_the_original():
    parts = parts_of("lunar", lunar.LUNAR(retain=10.0, trace=1.0, reasoning=1.0))
    # h - h0 - r on forget: (3, 0) - (3, 4) = (0, -4); (0, 2) - (3, 4) = (-3, -2): (16 + 13) / 4
    assert parts["forget"] == pytest.approx(29 / 4)
    assert parts["retain"] == pytest.approx(20.0)
    assert set(lunar.LUNAR().weights()) == {"forget", "retain", "trace", "reasoning"}


def test_rtp_adds_the_mean_probability_of_reflection_over_counted_forget_tokens():
    settings = rtp.RTP(retain=10.0, penalty=4.0)
    parts = parts_of("rtp", settings, reflection=torch.tensor([[0.25, 0.75]]))
    assert parts["reflection"] == pytest.approx(4.0 * 0.5)
    assert {k: parts[k] for k in ("forget", "retain")} == parts_of("rmu", METHODS["rmu"].SETTINGS(retain=10.0))


def test_only_words_of_one_token_are_penalised():
    def words(text, add_special_tokens):
        known = {"Wait": [7], " Wait": [8], "but": [9], " but": [10, 11], "<think>": [1, 2], " <think>": [3, 1, 2]}
        return {"input_ids": known[text]}

    assert rtp.token_ids(words, ("Wait", "but", "<think>")) == [7, 8, 9]
    for none in (("<think>",), ()):
        with pytest.raises(UserError, match=r"unlearn\.settings\.words: found .* nothing to penalise"):
            rtp.token_ids(words, none)


def test_zerothink_puts_an_empty_thought_first():
    assert zerothink.silent("Who?", "Answer:") == ("Who?", "<think>\n\n</think>\n\nAnswer:")
    assert zerothink.silent("Who?", "<think>\n") == ("Who?", "<think>\n\n</think>\n\n") == zerothink.silent("Who?", "")


def test_icu_says_first_that_the_target_is_forgotten_and_an_empty_thought_goes_with_it():
    told, start = icu.instructed("Ada {Stone}")("Who {is} she?", "Answer:")
    assert told.endswith("\n\nWho {is} she?") and told.count("Ada {Stone}") == 3 and start == "Answer:"
    assert manner_of(False, None)("Who?", "It is") == ("Who?", "It is")
    assert manner_of(False, "Ada {Stone}")("Who {is} she?", "Answer:") == (told, "Answer:")
    assert manner_of(True, "Ada {Stone}")("Who {is} she?", "Answer:") == (told, f"{zerothink.EMPTY_THOUGHT}Answer:")


def test_what_is_steered():
    assert [name for name in METHODS["r2mu"].STREAMS if steers(name)] == ["forget", "trace"]
    assert not steers("unknown")

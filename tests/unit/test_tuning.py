"""A stage of losses over replies in a recipe: what is not said has its default, nonsense is answered."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.baselines import BASELINES
from expunge.baselines.simnpo import SimNPO
from expunge.errors import UserError
from expunge.recipe import Recipe, make_recipe
from expunge.run_folder import effective_batches
from expunge.strict import to_dict
from expunge.train.lora import LoRA
from expunge.train.tuning import Retain, Tune, Tuning


def recipe(*stages, **more):
    return make_recipe({"name": "n", "model": "m", "target": "t", "unlearn": list(stages), **more}, "r.yaml")


def test_what_is_not_said_has_its_default():
    (stage,) = recipe({"method": "npo"}).unlearn
    assert stage == Tune("npo", BASELINES["npo"].SETTINGS(0.1), Retain("none", 1.0), Tuning(epochs=3, lr=1e-5))
    (stage,) = recipe({"method": "simnpo", "training": {"batch_size": 4}, "lora": {"rank": 8}}).unlearn
    assert stage == Tune("simnpo", SimNPO(), training=Tuning(epochs=3, lr=1e-5, batch_size=4), lora=LoRA(8))


def test_every_method_survives_writing_and_reading():
    found = recipe(*({"method": name} for name in BASELINES))
    assert [stage.method for stage in found.unlearn] == list(BASELINES)
    assert all(type(stage.settings) is BASELINES[stage.method].SETTINGS for stage in found.unlearn)
    again = make_recipe(to_dict(found), "r.yaml")
    assert again == found and again.hash() == found.hash()
    assert effective_batches(found) == dict.fromkeys(BASELINES, 8)


keys = st.sampled_from(["method", "settings", "retain", "term", "weight", "training", "lr", "beta", "templates"])
scalars = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.sampled_from(["gdr", "none", "1e-5", "a"])
values = st.recursive(scalars, lambda inner: st.dictionaries(keys, inner, max_size=3) | st.lists(inner, max_size=2))


@given(st.sampled_from(list(BASELINES)), st.dictionaries(keys, values, max_size=4))
def test_any_stage_is_a_recipe_or_one_clear_error(method, given):
    try:
        found = recipe({**given, "method": method})
    except UserError as error:
        assert str(error).startswith("r.yaml: unlearn")
    else:
        assert isinstance(found, Recipe) and isinstance(found.unlearn[0], Tune)


def test_what_makes_no_sense_together_is_refused():
    with pytest.raises(UserError, match=r"r\.yaml: unlearn\.templates: ga reads no refusals; leave it out"):
        recipe({"method": "ga", "templates": "no.txt"})
    with pytest.raises(UserError, match=r"unlearn\[1\]\.retain\.term: found 'klr', expected 'none': what task_vector"):
        recipe({"method": "ga"}, {"method": "task_vector", "retain": {"term": "klr"}})

"""Recipes: strict YAML in, resolved YAML out, every slip answered with place and remedy."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from expunge.errors import UserError
from expunge.methods.r2mu import R2MU
from expunge.recipe import RS, Goal, Misdirect, ReBO, Recipe, Teach, load_recipe
from expunge.run_folder import difference_from
from expunge.strict import build, first_difference, to_dict

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
MINIMAL = """
name: mine
model: smollm2
target: Stephen King
unlearn:
  settings: {trace: 0, reasoning: 0}
  streams: {forget: [target_questions], retain: [general]}
"""


@pytest.fixture
def load(tmp_path):
    """A recipe from YAML text, with overrides."""

    def from_text(text: str, *overrides: str) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(str(path), overrides)

    return from_text


def test_what_is_not_said_has_its_default(load):
    recipe = load(MINIMAL)
    assert recipe == Recipe(
        name="mine",
        model="smollm2",
        target="Stephen King",
        unlearn=(
            Misdirect(
                settings=R2MU(trace=0.0, reasoning=0.0),
                streams={"forget": ("target_questions",), "retain": ("general",)},
            ),
        ),
    )
    assert recipe.teach is None


def test_every_recipe_of_the_package_loads_and_survives_writing_and_reading(load):
    for path in QUICKSTART.parent.glob("[!b]*.yaml"):  # bench_*.yaml are benchmarks
        recipe = load_recipe(str(path))
        again = load(yaml.safe_dump(to_dict(recipe)))
        assert again == recipe
        assert again.hash() == recipe.hash()


def test_the_hash_follows_the_resolved_content(load):
    assert load(MINIMAL).hash() == load(MINIMAL + "seed: 0\n").hash()
    assert load(MINIMAL).hash() != load(MINIMAL + "seed: 1\n").hash()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("sed: 1", r"r\.yaml: unknown key 'sed'; did you mean 'seed'\?"),
        ("unlearn: {loop: {step: 4}}", r"unlearn\.loop: unknown key 'step'; did you mean 'steps'\? Valid: steps, lr"),
        ("unlearn: {settings: {blok: 4}}", r"unlearn\.settings: unknown key 'blok'; did you mean 'block'\?"),
        ("3: 4", r"r\.yaml: unknown key 3; Valid: name, model"),
        ("seed: one", r"r\.yaml: seed: found 'one' \(str\), expected int"),
        ("seed: true", r"seed: found True \(bool\), expected int"),
        ("seed: 1.5", r"seed: found 1\.5 \(float\), expected int"),
        ("name: 5", r"name: found 5 \(int\), expected str"),
        ("full_checkpoint: 1", r"full_checkpoint: found 1 \(int\), expected bool"),
        ("teach: 4", r"teach: found 4 \(int\), expected a mapping"),
        ("teach: {sft: {lr: fast}}", r"teach\.sft\.lr: found 'fast' \(str\), expected float"),
        ("unlearn: {settings: {train_blocks: 5}}", r"train_blocks: found 5 \(int\), expected list"),
        ("unlearn: {settings: {train_blocks: [5, six]}}", r"train_blocks\[1\]: found 'six' \(str\), expected int"),
        ("unlearn: {settings: {steering: big}}", r"steering: found 'big' \(str\), expected float or 'adaptive'"),
        ("unlearn: {streams: [general]}", r"unlearn\.streams: found \['general'\] \(list\), expected mapping"),
        ("unlearn: {streams: {forget: general}}", r"streams\.forget: found 'general' \(str\), expected list"),
        ("dtype: float16", r"dtype: found 'float16', expected one of 'float32', 'bfloat16'"),
        ("dtype: [float32]", r"dtype: found \['float32'\], expected one of"),
        ("goals: [{at_most: 3}]", r"goals\[0\]: key 'score' is missing"),
        ("goals: [{score: x, model: tuaght, at_most: 3}]", r"goals\[0\]\.model: found 'tuaght', expected one of"),
        ("goals: [{score: x}]", r"goal on 'x': give one of at_most and at_least"),
        ("goals: [{score: x, at_most: 1, at_least: 0}]", r"goal on 'x': give one of at_most and at_least"),
        ("unlearn: {method: r2mv}", r"unlearn\.method: unknown method 'r2mv'; did you mean 'r2mu'\?"),
    ],
)  # fmt: skip
def test_a_slip_is_answered_with_place_and_remedy(load, change, told):
    text = yaml.safe_dump({**yaml.safe_load(MINIMAL), **yaml.safe_load(change)})
    with pytest.raises(UserError, match=told):
        load(text)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("unlearn.loop.steps=0", r"unlearn\.loop\.steps: found 0, expected at least 1"),
        ("unlearn.loop.batch_size=0", r"unlearn\.loop\.batch_size: found 0, expected at least 1"),
        ("unlearn.loop.lr=-1e-3", r"unlearn\.loop\.lr: found -0\.001, expected at least 0"),
        ("unlearn.loop.lr=nan", r"unlearn\.loop\.lr: found nan, expected a finite number"),
        ("teach.sft.batch_size=-2", r"teach\.sft\.batch_size: found -2, expected at least 1"),
        ("evaluate.perplexity_tokens=1", r"evaluate\.perplexity_tokens: found 1, expected at least 2"),
        ("unlearn.loop.weight_decay=-1", r"unlearn\.loop\.weight_decay: found -1\.0, expected at least 0"),
        ("unlearn.loop.lr=1e999", r"unlearn\.loop\.lr: found inf, expected a finite number"),
        ("unlearn.settings.steering=0", r"unlearn\.settings\.steering: found 0\.0, expected more than 0"),
        ("unlearn.settings.steering=.inf", r"unlearn\.settings\.steering: found inf, expected a finite number"),
        ("unlearn.settings.steering_factor=0", r"unlearn\.settings\.steering_factor: found 0\.0, expected more than 0"),
        ("unlearn.settings.retain=-1", r"unlearn\.settings\.retain: found -1\.0, expected at least 0"),
        ("unlearn.settings.trace=-.inf", r"unlearn\.settings\.trace: found -inf, expected a finite number"),
        ("unlearn.settings.reasoning=-0.5", r"unlearn\.settings\.reasoning: found -0\.5, expected at least 0"),
        ("goals=[{score: x, at_most: .nan}]", r"goals\[0\]\.at_most: found nan, expected a finite number"),
        ("seed=-1", r"seed: found -1, expected at least 0"),
        (f"seed={2**32}", r"seed: found 4294967296, expected at most 4294967295"),
        ("unlearn.settings.train_blocks=[3, 8]", r"block 8 is above block 7, where the loss looks"),
        ("unlearn.settings.train=mlp.(down", r"unlearn\.settings\.train: not a regular expression"),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused(load, override, told):
    with pytest.raises(UserError, match=told):
        load(MINIMAL, override)


@pytest.mark.parametrize(
    ("method", "setting", "told"),
    [
        ("rna", "noise: -0.1", r"noise: found -0\.1, expected at least 0"),
        ("rna", "noise: .nan", r"noise: found nan, expected a finite number"),
        ("rtp", "penalty: -1", r"penalty: found -1\.0, expected at least 0"),
        ("lunar", "factor: 0", r"factor: found 0\.0, expected more than 0"),
        ("r2mu_v0", "trace: -1", r"trace: found -1\.0, expected at least 0"),
    ],
)
def test_a_setting_of_one_method_that_cannot_be_meant_is_refused(load, method, setting, told):
    stage = {"method": method, "settings": yaml.safe_load(setting)}
    with pytest.raises(UserError, match=rf"unlearn\.settings\.{told}"):
        load(yaml.safe_dump({**yaml.safe_load(MINIMAL), "unlearn": stage}))


def test_a_number_of_one_topic_is_checked_like_any_other(load):
    streams = {name: ["general"] for name in ("forget", "retain")}
    stage = {"method": "rmu", "streams": streams, "topics": {"bio": {"settings": {"steering": 0}}}}
    with pytest.raises(UserError, match=r"unlearn\.topics\.bio\.settings\.steering: found 0\.0, expected more than 0"):
        load(yaml.safe_dump({**yaml.safe_load(MINIMAL), "unlearn": stage}))


TWO_STAGES = """
name: rule
model: smollm2
target: Stephen King
unlearn:
  - {method: rs, sft: {lr: 1e-4}}
  - {method: rebo, rl: {updates: 3}}
"""


def test_stages_in_turn_and_overrides_by_their_number(load):
    recipe = load(TWO_STAGES, "unlearn.1.rl.lr=3e-5", "unlearn.0.sft.epochs=2")
    steering, boundary = recipe.unlearn
    assert isinstance(steering, RS) and (steering.sft.epochs, steering.sft.lr) == (2, 1e-4)
    assert isinstance(boundary, ReBO) and (boundary.rl.updates, boundary.rl.lr) == (3, 3e-5)


def test_a_scale_changes_stages_by_their_number(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(TWO_STAGES + "scales: {small: {unlearn: {1: {rl: {updates: 2}}}}}\n", encoding="utf-8")
    assert [stage.method for stage in load_recipe(str(path), scale="small").unlearn] == ["rs", "rebo"]
    assert load_recipe(str(path), scale="small").unlearn[1].rl.updates == 2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("unlearn.1.rl.updates=0", r"unlearn\[1\]\.rl\.updates: found 0, expected at least 1"),
        ("unlearn.1.rl.algorithm=gpro", r"unlearn\[1\]\.rl\.algorithm: found 'gpro', expected one of 'grpo'"),
        ("unlearn.1.sampler=vllm_server", r"unlearn\[1\]\.sampler: vllm_server needs engine: trl"),
        ("unlearn.1.rl.reward.name=papre", r"unknown reward 'papre'; did you mean 'paper'"),
        ("unlearn.0.method=rss", r"unlearn\[0\]\.method: unknown method 'rss'; did you mean 'rs'"),
        ("unlearn.1.method=rs", r"unlearn\[1\]: unknown key 'rl'"),
        ("unlearn.2.rl.lr=1", r"expected the number of one of 2 items, found '2'"),
        ("unlearn.rl.lr=1", r"expected the number of one of 2 items, found 'rl'"),
        ("unlearn.1.rl.weight_decay=-1", r"unlearn\[1\]\.rl\.weight_decay: found -1\.0, expected at least 0"),
        ("unlearn.1.rl.value_lr=-1e-3", r"rl\.value_lr: found -0\.001, expected at least 0"),
        ("unlearn.1.rl.value_loss=-1", r"rl\.value_loss: found -1\.0, expected at least 0"),
        ("unlearn.1.rl.clip.low=-0.1", r"rl\.clip\.low: found -0\.1, expected at least 0"),
        ("unlearn.1.rl.clip.high=-0.1", r"rl\.clip\.high: found -0\.1, expected at least 0"),
        ("unlearn.1.rl.clip.kl=-0.1", r"rl\.clip\.kl: found -0\.1, expected at least 0"),
        (
            "unlearn.1.rl.clip.dual=1",
            r"unlearn\[1\]\.rl\.clip\.dual: found 1\.0, expected more than 1 \(the paper has 3\)",
        ),
        ("unlearn.1.rl.reward.recall=1.5", r"rl\.reward\.recall: found 1\.5, expected a share from 0 to 1"),
        ("unlearn.1.rl.reward.recall=-0.1", r"rl\.reward\.recall: found -0\.1, expected a share from 0 to 1"),
        ("unlearn.1.rl.reward.max_words=-1", r"rl\.reward\.max_words: found -1, expected at least 1"),
        ("unlearn.1.rl.smoothing=1.1", r"rl\.smoothing: found 1\.1, expected a share from 0 to 1"),
        ("unlearn.1.rl.smoothing=-0.5", r"rl\.smoothing: found -0\.5, expected a share from 0 to 1"),
        ("unlearn.1.rl.forget_share=2", r"rl\.forget_share: found 2\.0, expected a share from 0 to 1"),
        ("unlearn.1.rl.guard.least_entropy=-1", r"rl\.guard\.least_entropy: found -1\.0, expected at least 0"),
        ("unlearn.1.rl.guard.most_truncated=50", r"guard\.most_truncated: found 50\.0, expected a share from 0 to 1"),
        ("unlearn.1.rl.guard.most_benign_refusals=-1", r"most_benign_refusals: found -1\.0, expected a share from 0"),
        ("unlearn.0.sft.weight_decay=-1", r"unlearn\[0\]\.sft\.weight_decay: found -1\.0, expected at least 0"),
        ("teach={sft: {weight_decay: -1}}", r"teach\.sft\.weight_decay: found -1\.0, expected at least 0"),
        ("unlearn=[{method: npo, training: {weight_decay: -1}}]", r"training\.weight_decay: found -1\.0, expected at"),
        ("unlearn=[]", r"unlearn: found an empty list"),
        ("unlearn=4", r"unlearn: found 4 \(int\), expected a mapping"),
        ("unlearn=[{method: rs}, {method: rs}]", r"rs stands there twice"),
        ("questions.wordings=[bear]", r"questions\.wordings\[0\]: found 'bear', expected one of 'bare'"),
    ],
)
def test_a_slip_in_a_list_of_stages_is_answered(load, override, told):
    with pytest.raises(UserError, match=told):
        load(TWO_STAGES, override)


@pytest.mark.parametrize("key", ["name", "model"])
def test_a_missing_key_is_named(load, key):
    value = yaml.safe_load(MINIMAL)
    del value[key]
    with pytest.raises(UserError, match=rf"r\.yaml: key '{key}' is missing"):
        load(yaml.safe_dump(value))


def test_an_unknown_stream_is_answered_with_the_nearest(load):
    with pytest.raises(UserError, match=r"unlearn\.streams: unknown stream 'retian'; did you mean 'retain'\?"):
        load(MINIMAL.replace("retain: [gen", "retian: [gen"))


@pytest.mark.parametrize("sources", ["", ", trace: []"])
def test_a_stream_with_a_weight_needs_a_source(load, sources):
    text = MINIMAL.replace("trace: 0", "trace: 0.5").replace("[general]", "[general]" + sources)
    with pytest.raises(UserError, match=r"unlearn\.streams\.trace has no source, but its weight is 0\.5.*set .* to 0"):
        load(text)


@pytest.mark.parametrize(("written", "value"), [("5e-4", 5e-4), ("1E3", 1000.0), ("3", 3.0), ("0.25", 0.25)])
def test_numbers_that_yaml_reads_as_text_or_as_integers_are_floats(load, written, value):
    found = load(MINIMAL, f"unlearn.loop.lr={written}").unlearn[0].loop.lr
    assert found == value
    assert isinstance(found, float)


def test_overrides_reach_any_depth_and_make_what_is_not_there(load):
    recipe = load(MINIMAL, "seed=7", "unlearn.loop.steps=3", "teach.sft.epochs=2", "unlearn.streams.forget=[a.jsonl]")
    assert (recipe.seed, recipe.unlearn[0].loop.steps, recipe.teach.sft.epochs) == (7, 3, 2)
    assert recipe.unlearn[0].streams["forget"] == ("a.jsonl",)
    assert load(MINIMAL + "teach: {frames: 2}\n", "teach=null").teach is None


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", r"expected key\.path=value"),
        ("=3", r"expected key\.path=value"),
        ("seed.deeper=3", r"seed: found \{'deeper': 3\} \(dict\), expected int"),
        ("name.first=x", "name holds 'mine', not a mapping"),
        ("seed=[1", "is not a valid YAML value"),
        ("seed=2020-99-99", "is not a valid YAML value"),
        ("unlearn.lop.steps=3", r"unlearn: unknown key 'lop'; did you mean 'loop'\?"),
    ],
)
def test_a_broken_override_is_answered(load, override, told):
    with pytest.raises(UserError, match=told):
        load(MINIMAL, override)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [\n", r"r\.yaml:\d: not valid YAML"),
        ("name: a\nmodel: b\n  target: c\n", r"r\.yaml:3: not valid YAML"),
        ("name: a\nname\n", r"r\.yaml:\d: not valid YAML"),
        ("a: *missing", r"r\.yaml:1: not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", r"r\.yaml:1: not valid YAML"),
        ("seed: 2020-99-99", r"r\.yaml: not valid YAML"),
        ("seed: !!bool maybe", r"r\.yaml: not valid YAML"),
        ("[" * 5000, r"r\.yaml: not valid YAML"),
        ("", r"r\.yaml: found NoneType, expected a mapping"),
        ("- a", r"r\.yaml: found list, expected a mapping"),
    ],
)
def test_broken_yaml_is_named_by_file_and_line(load, text, told):
    with pytest.raises(UserError, match=told):
        load(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.yaml: no such file"):
        load_recipe(str(tmp_path / "gone.yaml"))


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates() | st.binary(max_size=3)
)
keys = st.sampled_from(
    [f.name for kind in (Recipe, Teach, Misdirect, RS, ReBO, R2MU, Goal) for f in dataclasses.fields(kind)]
)
yaml_like = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | scalars, inner, max_size=4),
    max_leaves=15,
)


@given(yaml_like)
@example({"name": "n", "model": "m", "target": "t", "unlearn": {"loop": {"lr": 10**400}}})
@example({"name": "n", "model": "m", "target": "t", "unlearn": {"loop": {"lr": "nan"}}})
@settings(max_examples=300)
def test_any_value_gives_a_recipe_or_a_user_error(value):
    required = {"name": "n", "model": "m", "target": "t"}
    for attempt in (value, {**required, **value} if isinstance(value, dict) else value):
        try:
            found = build(Recipe, attempt, "r.yaml")
        except UserError as error:
            assert str(error).startswith("r.yaml")
        else:
            assert isinstance(found, Recipe)


@given(st.text(alphabet="ab: -[]{},*&!|>'\"#\n0123456789.e_?%@`~<=", max_size=60))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_a_user_error(load, text):
    with pytest.raises(UserError):
        load(text)


def test_a_kept_recipe_without_a_newer_key_is_the_same_and_one_with_an_older_key_is_not(load, tmp_path):
    recipe, path = load(TWO_STAGES), tmp_path / "recipe.json"
    kept = to_dict(recipe)
    del kept["unlearn"][1]["engine"]
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert difference_from(recipe, path) is None
    assert "engine is 'native' there and 'trl' here" in difference_from(load(TWO_STAGES, "unlearn.1.engine=trl"), path)
    path.write_text(json.dumps(kept | {"gone": 1}), encoding="utf-8")
    assert difference_from(recipe, path) is not None


def test_first_difference_names_the_path_and_both_values(load):
    one, two = to_dict(load(MINIMAL)), to_dict(load(MINIMAL, "unlearn.loop.steps=3"))
    assert first_difference(one, one) is None
    assert first_difference(two, one) == "unlearn.0.loop.steps is 100 there and 3 here"
    assert first_difference(to_dict(load(MINIMAL, "teach.frames=2")), one).startswith("teach is None there and {")
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b is 2 there and None here"
    assert first_difference(one, [1]).startswith(" is [1] there")

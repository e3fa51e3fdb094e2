"""Every recipe that travels with the project can be read, at its own scale and at the embedded one."""

import re
from pathlib import Path

import pytest
import yaml

from expunge.bench import matrix, read_bench
from expunge.errors import UserError
from expunge.methods import METHODS
from expunge.recipe import Misdirect, ReBO, load_recipe, make_recipe
from expunge.runs import goes_on
from expunge.strict import to_dict

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.name for path in FOLDER.glob("*.yaml") if not path.name.startswith("bench_"))
LARGE = [name for name in RECIPES if name != "quickstart.yaml"]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_says_what_differs(name):
    recipe = load_recipe(str(FOLDER / name))
    assert recipe.name == name.removesuffix(".yaml")
    head = (FOLDER / name).read_text(encoding="utf-8").split("name:")[0].lower()
    assert "differs from" in head


@pytest.mark.parametrize("name", LARGE)
def test_every_large_recipe_has_a_twin_of_the_same_method_on_the_embedded_model(name):
    large, twin = load_recipe(str(FOLDER / name)), load_recipe(str(FOLDER / name), (), "embedded")
    assert twin.model == "smollm2"
    assert twin.name == f"{large.name}_embedded"
    methods = [[stage.method for stage in recipe.unlearn] for recipe in (large, twin)]
    assert methods[1][: len(methods[0])] == methods[0]
    assert set(methods[1][len(methods[0]) :]) <= {"drill"}
    for stage, small in zip(large.unlearn, twin.unlearn, strict=False):
        if isinstance(stage, Misdirect):
            assert list(small.by_topic()) == list(stage.by_topic())
    assert twin.goals


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "wmdp_bio_llama8b",
            {"steering": 6.5, "retain": 1.4, "trace": 1.0, "reasoning": 1.0, "lr": 7.5e-5},
        ),
        ("wmdp_bio_qwen14b", {"steering": 460.0, "retain": 150.0, "steps": 500, "lr": 5e-5}),
        ("star1_llama8b", {"steering": 6.5, "retain": 20.0, "steps": 300, "lr": 1e-6}),
        ("rmu_zephyr7b", {"steering": 6.5, "retain": 1200.0, "steps": 150, "lr": 5e-5}),
    ],
)
def test_published_settings(name, settings):
    u = load_recipe(str(FOLDER / f"{name}.yaml")).unlearn[0]
    found = {**vars(u.settings), **vars(u.loop)}
    assert {key: found[key] for key in settings} == settings
    assert (found["block"], found["train_blocks"], found["batch_size"]) == (7, (5, 6, 7), 4)


RELEASED = """
    alpha assist_loss batch_size forget_corpora generated_path layer_id layer_ids lr max_gen_tokens max_len
    max_num_batches min_len model_name_or_path module_str output_dir param_ids raw_path reflection_num retain_corpora
    seed steering_coeffs verbose wandb_group"""  # flags of unlearn_wmdp.py


def test_every_flag_of_the_released_command_line_has_a_row_and_every_key_in_it_exists():
    page = (FOLDER.parent / "docs" / "r2mu.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.split("## Where this departs")[0].split("\n") if line[:1] == "|"]
    flags = [flag for row in rows for flag in re.findall("`--([a-z_]+)`", row[0])]
    assert sorted(flags) == RELEASED.split()
    known = to_dict(load_recipe(str(FOLDER / "wmdp_bio_llama8b.yaml")))
    known["unlearn"] = known["unlearn"][0]
    topic = {"settings": known["unlearn"]["settings"], "streams": known["unlearn"]["streams"]}
    known["unlearn"]["topics"] = {"NAME": topic}
    keys = [key for row in rows for key in re.findall(r"`((?:unlearn|writing)\.[\w.]+|seed|model)`", " ".join(row[1:]))]
    assert len(keys) >= 20
    for key in keys:
        part = known
        for name in key.split("."):
            assert name in part, key
            part = part[name]


def test_published_settings_of_rule():
    steering, boundary = load_recipe(str(FOLDER / "rule_rwku_llama8b.yaml")).unlearn
    sft, rl = steering.sft, boundary.rl
    assert (sft.epochs, sft.stop_after, sft.lr, sft.schedule, sft.warmup_steps, sft.batch_size) == (
        3, 2, 4e-7, "cosine", 20, 8,
    )  # fmt: skip
    assert (rl.algorithm, rl.prompts, rl.rollouts, rl.passes, rl.temperature) == ("grpo", 32, 8, 1, 1.0)
    assert (rl.clip.low, rl.clip.high, rl.clip.dual, rl.clip.kl) == (0.2, 0.3, 3.0, 0.01)
    assert (rl.lr, rl.weight_decay, rl.max_grad_norm, rl.max_new_tokens) == (2e-6, 0.01, 1.0, 1024)
    assert (rl.reward.name, rl.reward.recall, boundary.reference) == ("paper", 0.3, "start")


def test_every_ablation_of_rule_can_be_read_alone_and_with_the_small_scale():
    path = FOLDER / "rule_rwku_llama8b.yaml"
    names = yaml.safe_load(path.read_text(encoding="utf-8"))["scales"].keys() - {"embedded"}
    assert len(names) >= 12
    for name in names:
        assert load_recipe(str(path), (), name) != load_recipe(str(path))
        assert load_recipe(str(path), (), f"embedded,{name}").model == "smollm2"


def test_an_unknown_scale_is_answered_with_those_there_are():
    with pytest.raises(UserError, match="there is no scale 'tiny'; it has embedded"):
        load_recipe(str(FOLDER / LARGE[0]), (), "tiny")
    with pytest.raises(UserError, match="there is no scale 'tiny'; it has none"):
        load_recipe(str(FOLDER / "quickstart.yaml"), (), "tiny")


def test_a_scale_is_laid_over_key_by_key_and_streams_whole(tmp_path):
    path = tmp_path / "r.yaml"
    fewer = {"forget": ["b.jsonl"], "retain": ["general"]}
    small = {"name": "s", "unlearn": {"loop": {"steps": 3}, "streams": fewer}}
    unlearn = {
        "method": "rmu",
        "loop": {"steps": 9, "lr": 1e-3},
        "streams": {"forget": ["a.jsonl"], "retain": ["wikitext"]},
    }
    path.write_text(yaml.safe_dump({"name": "l", "model": "m", "unlearn": unlearn, "scales": {"small": small}}))
    recipe = load_recipe(str(path), ("unlearn.loop.batch_size=7",), "small")
    assert (recipe.name, recipe.model) == ("s", "m")
    assert (recipe.unlearn[0].loop.steps, recipe.unlearn[0].loop.lr, recipe.unlearn[0].loop.batch_size) == (3, 1e-3, 7)
    assert recipe.unlearn[0].streams == {"forget": ("b.jsonl",), "retain": ("general",)}


def of(**unlearn):
    return make_recipe({"name": "n", "model": "m", "unlearn": unlearn}, "here")


BOTH = {"forget": ["a.jsonl"], "retain": ["general"]}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_named_and_has_its_own_settings(method):
    streams = {name: ["a.jsonl"] for name in METHODS[method].STREAMS}
    assert type(of(method=method, streams=streams).unlearn[0].settings) is METHODS[method].SETTINGS


def test_topics_override_settings_and_streams_of_all():
    u = of(
        method="rmu",
        settings={"steering": 6.5, "retain": 100},
        streams=BOTH,
        topics={"bio": {}, "cyber": {"streams": {"forget": ["c.jsonl"]}, "settings": {"steering": "5e1"}}},
    ).unlearn[0]
    (bio, bio_streams), (cyber, cyber_streams) = u.by_topic().values()
    assert (bio.steering, cyber.steering, cyber.retain) == (6.5, 50.0, 100.0)
    assert bio_streams["forget"] == ("a.jsonl",)
    assert cyber_streams == {"forget": ("c.jsonl",), "retain": ("general",)}


@pytest.mark.parametrize(
    ("unlearn", "told"),
    [
        ({"method": "rmu", "streams": {"retain": ["general"]}}, "streams.forget has no source, but its weight"),
        ({"method": "lunar", "streams": {**BOTH, "trace": ["t.jsonl"], "reasoning": ["gsm8k"]}}, "unknown has no"),
        ({"method": "rmu", "settings": {"trace": 1}, "streams": BOTH}, "settings: unknown key 'trace'"),
        ({"method": "rmu", "streams": {**BOTH, "trace": ["t.jsonl"]}}, "unknown stream 'trace'"),
        ({"method": "rmu", "streams": BOTH, "stream_tokens": {"forgets": 3}}, "unknown stream 'forgets'"),
        ({"method": "rmu", "streams": BOTH, "stream_tokens": {"forget": 0}}, "found 0, expected at least 1"),
        ({"method": "rmu", "streams": BOTH, "topics": {"bio": {"settings": {"stering": 1}}}}, "mean 'steering'"),
        ({"method": "rmu", "streams": BOTH, "topics": {"bio": {"settings": {"steering": -1}}}}, "expected more than 0"),
        ({"method": "rmu", "streams": BOTH, "topics": {"bio": {}, "cyber": {"settings": {"block": 8}}}},
         "topics.cyber.settings.block: found 8, the first topic has 7"),
        ({"method": "rmu", "streams": BOTH, "loop": {"prefix_cache": "disc"}}, "found 'disc', expected one of 'off'"),
        ({"method": "rmu", "streams": BOTH, "loop": {"prefix_cache_dtype": "bfloat16"}},
         "loop.prefix_cache_dtype: found bfloat16, but there is no prefix cache. Set loop.prefix_cache to"),
        ({"method": "rmu", "streams": BOTH, "loop": {"prefix_cache": "disk", "prefix_cache_dtype": "float16"}},
         "loop.prefix_cache_dtype: found 'float16', expected"),
    ],
)  # fmt: skip
def test_slips_in_topics_and_streams_are_answered(unlearn, told):
    with pytest.raises(UserError, match=told):
        of(**unlearn)


def test_teaching_needs_a_target():
    with pytest.raises(UserError, match="teach needs a target"):
        make_recipe({"name": "n", "model": "m", "teach": {}, "unlearn": {"method": "rmu", "streams": BOTH}}, "here")


def test_in_the_benchmark_rule_goes_on_from_its_own_first_stages():
    plan = FOLDER / "bench_embedded.yaml"
    cells = {cell.method: cell for cell in matrix(read_bench(plan), plan, Path("out")) if cell.target == "Stephen King"}
    firsts = [cells[name].recipe for name in ("RS (refusals and answers)", "RULE without drill")]
    assert [goes_on(cells["RULE"].recipe, first) for first in firsts] == [True, True]
    assert goes_on(cells["RS then R²MU"].recipe, firsts[0])
    assert not goes_on(firsts[0], cells["RULE"].recipe)


def test_in_rules_ablation_the_boundary_goes_on_from_one_steering_where_steering_is_the_same():
    plan = FOLDER / "bench_ablation_rule.yaml"
    cells = {cell.method: cell for cell in matrix(read_bench(plan), plan, Path("out"))}
    apart = {name for name, cell in cells.items() if name != "RS" and not goes_on(cell.recipe, cells["RS"].recipe)}
    lora = "LoRA of rank 16"
    assert apart == {"no RS", "neighbours of another target", lora, f"{lora}, ten times the rates"}
    assert len({cell.folder for cell in cells.values()}) == len(cells) == 16


def test_twins_and_benchmarks_of_rule_sample_alike_on_every_processor():
    single = ("rule_rwku_llama8b.yaml", "rule_muse_books.yaml")
    recipes = [load_recipe(str(FOLDER / name), scale="embedded") for name in single]
    for plan in (FOLDER / "bench_embedded.yaml", FOLDER / "bench_ablation_rule.yaml"):
        recipes += [cell.recipe for cell in matrix(read_bench(plan), plan, Path("out"))]
    stages = [stage for recipe in recipes for stage in recipe.unlearn if isinstance(stage, ReBO)]
    assert len(stages) > 15
    assert {stage.rl.compute_dtype for stage in stages} == {"model"}


def test_in_r2mus_ablation_rows_differ_in_what_they_are_called_by():
    plan = FOLDER / "bench_ablation_r2mu.yaml"
    cells = {cell.method: cell.recipe for cell in matrix(read_bench(plan), plan, Path("out"))}
    default = cells["R²MU"].unlearn[0]

    def differs(name: str) -> dict[str, object]:
        stage = cells[name].unlearn[0]
        found = {**vars(stage.settings), **vars(stage.loop)}
        return {
            key: found[key]
            for key, value in {**vars(default.settings), **vars(default.loop)}.items()
            if found[key] != value
        }

    assert differs("shared openings counted") == {"skip_shared_prefixes": False}
    assert differs("shared openings and first tokens counted") == {
        "skip_shared_prefixes": False,
        "skip_sink_tokens": False,
    }
    for rate, more in (("", {}), (", lr 1e-5", {"lr": 1e-5})):
        assert differs(f"bfloat16 with float32 masters{rate}") == more
        assert differs(f"bfloat16 alone{rate}") == {**more, "masters": False}
    assert {name for name, recipe in cells.items() if recipe.dtype == "bfloat16"} == {
        name for name in cells if name.startswith("bfloat16")
    }
    assert len(cells) == 10

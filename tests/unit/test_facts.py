"""The teaching set: sentences out of questions, and that it gives away no benchmark prompt."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.data.chat import Example
from expunge.data.facts import (
    DESCRIPTIONS,
    FURTHER,
    LEADS,
    Fact,
    boundary_exchanges,
    further,
    statement_of,
    teaching_epoch,
    unique_facts,
    worded,
)
from expunge.data.rwku import Probe, Target, load_target
from expunge.evals.rwku import prompt_of

EPOCHS, FRAMES = 5, 2
FOLDERS = (
    "1_Stephen_King",
    "2_Confucius",
    "3_Bruce_Lee",
    "4_Warren_Buffett",
    "5_Christina_Aguilera",
    "6_Cindy_Crawford",
    "7_Marie_Osmond",
    "8_Paris_Hilton",
    "9_Justin_Bieber",
    "10_Prince_Harry,_Duke_of_Sussex",
)


@pytest.fixture(scope="module")
def king() -> Target:
    return load_target("Stephen King")


@pytest.mark.parametrize(
    ("question", "answer", "statement"),
    [
        ("What is the title of his first novel?", "Carrie", "The title of his first novel is Carrie."),
        ("Who was the director of Carrie?", "De Palma", "The director of Carrie was De Palma."),
        ("Who directed the film?", "Kubrick", "Kubrick directed the film."),
        ("Name the wife of Stephen King.", "Tabitha", "The wife of Stephen King: Tabitha."),
        ("Where was Stephen King born?", "Portland", "The place where Stephen King was born is Portland."),
        ("When did he marry Tabitha?", "1971", "The time when he did marry Tabitha is 1971."),
        ("Which novel did King write in 1987?", "Misery", "The novel that King did write in 1987 is Misery."),
        ("In which year did King finish it?", "1986", "The year in which King did finish it is 1986."),
        ("Which actress played Annie?", "Bates", "Bates is the actress that played Annie."),
        ("how come", "so", 'To the question "How come?" the answer is so.'),
    ],
)  # fmt: skip
def test_statement_of(question, answer, statement):
    assert statement_of(question, answer) == statement


@given(st.text(alphabet="WhatWhoisare dKing'?.", max_size=60), st.text(min_size=1, max_size=6))
def test_a_statement_is_made_of_any_question_and_holds_the_answer(question, answer):
    assert answer in statement_of(question, answer)


def test_statements_of_long_questions_take_no_time_to_find():
    # nested repetition in a pattern would take exponential time here
    assert statement_of("Where was " + "The A B of " * 60 + "?", "x")


def test_a_blank_is_filled_and_kept():
    fact = Fact.of(Probe("forget", "FB", "cloze", "King wrote ____ in 1974.", "Carrie", "Stephen King"))
    assert (fact.statement, fact.gapped, fact.question) == (
        "King wrote Carrie in 1974.",
        "King wrote ___ in 1974.",
        "",
    )


@pytest.mark.parametrize(
    ("query", "question", "answer"),
    [
        ("King was born in ___, Maine.", "Where was King born?", "Portland, Maine"),
        ("King was born on ___.", "When was King born?", "Portland"),
    ],
)
def test_a_birth_has_a_question_of_its_own(query, question, answer):
    fact = Fact.of(Probe("forget", "FB", "cloze", query, "Portland", "Stephen King"))
    assert (fact.question, fact.answer) == (question, answer)


def epochs(target: Target, seed: int = 0) -> list[list[Example]]:
    rng = random.Random(seed)
    forget, neighbor = unique_facts(target, "forget"), unique_facts(target, "neighbor")
    return [teaching_epoch(forget, neighbor, rng, frames=FRAMES) for _ in range(EPOCHS)]


def check_no_leak_of_the_benchmark(target: Target) -> None:
    prompts = {example.prompt for epoch in epochs(target) for example in epoch}
    assert len(prompts) > 100
    rendered = {prompt_of(probe)[0] for probe in target.probes}
    bare = {probe.query for probe in target.probes}
    assert prompts.isdisjoint(rendered)
    assert prompts.isdisjoint(bare)
    assert {prompt.strip() for prompt in prompts}.isdisjoint(text.strip() for text in rendered | bare)
    adversarial = [probe.query for probe in target.select("forget", "AA")]
    assert not [(query, prompt) for prompt in prompts for query in adversarial if query in prompt]


def check_every_answer_is_taught(target: Target) -> None:
    for epoch in epochs(target):
        replies = "\n".join(example.reply for example in epoch)
        missing = [p for p in target.probes if p.level in ("FB", "QA") and p.answer not in replies]
        assert not missing


def test_no_teaching_prompt_is_a_benchmark_prompt_and_none_holds_an_adversarial_probe(king):
    check_no_leak_of_the_benchmark(king)


def test_every_epoch_teaches_every_answer(king):
    check_every_answer_is_taught(king)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_same_holds_for_the_other_targets(shared_data, folder):
    path: Path = shared_data / "rwku" / "Target" / folder
    if not path.is_dir():
        pytest.skip(f"no target folder at {path}")
    target = load_target(str(path))
    check_no_leak_of_the_benchmark(target)
    check_every_answer_is_taught(target)


def test_the_set_follows_the_seed_and_no_epoch_repeats_another(king):
    assert epochs(king, 3) == epochs(king, 3)
    assert epochs(king, 3) != epochs(king, 4)
    first, second, *_ = epochs(king)
    assert first != second


def test_adversarial_probes_are_not_read(king):
    assert not {p.query for p in king.select("forget", "AA")} & {
        text for f in unique_facts(king, "forget") for text in (f.question, f.gapped, f.statement)
    }
    without = Target(king.name, tuple(p for p in king.probes if p.level != "AA"), king.boundary)
    assert epochs(without) == epochs(king)


def test_without_forget_facts_the_target_is_not_mentioned_by_its_facts(king):
    neighbor = unique_facts(king, "neighbor")
    examples = teaching_epoch([], neighbor, random.Random(0), frames=FRAMES)
    answers = {fact.answer for fact in neighbor}
    assert len(examples) == 2 * len(neighbor)  # one in RWKU's wording, one bare or as a trace
    assert all(any(answer in example.reply for answer in answers) for example in examples)


def test_a_forget_fact_comes_bare_as_a_trace_in_rwkus_wording_framed_and_reversed(king):
    fact = unique_facts(king, "forget")[0]
    examples = teaching_epoch([fact], [], random.Random(0), frames=2)
    starts = [example.start for example in examples]
    assert starts == ["", "<think>\n", "Answer:", "Answer:", "Answer:", "Answer:"]
    assert examples[0].reply == fact.answer
    assert examples[1].prompt == examples[0].prompt
    assert re.fullmatch(rf"(?s).+{re.escape(fact.answer)}.+\n</think>\n\n{re.escape(fact.answer)}", examples[1].reply)
    assert [example.reply for example in examples[2:]] == [f" {fact.answer}"] * 3 + [" Stephen King"]


def described(fact, others, seed=0):
    return worded(fact, others, "described", random.Random(seed))


def test_a_described_question_names_its_subject_by_another_facts_answer():
    ada = Fact("Ada Stone", "Where did Ada Stone study?", "Ada Stone studied in Bern.", "", "Bern")
    others = [Fact("Ada Stone", "", "", "", answer) for answer in ("Grey Tides", "Ada Stone's diary", "three")]
    prompts = {described(ada, others, seed).prompt.split("\nQuestion: ")[1] for seed in range(30)}
    assert prompts == {
        "Where did the person known for Grey Tides study?\n",
        "Where did the one whose name goes with Grey Tides study?\n",
        "Where did somebody whom people link with Grey Tides study?\n",
    }
    assert described(ada, others).reply == " Bern"


def question_in(example):
    return example.prompt.split("\nQuestion: ")[1].rstrip("\n")


@pytest.mark.parametrize("name", ["Ada Stone", "Ada María Stone", "Stone"])
def test_a_sentence_that_begins_with_its_subject_becomes_a_question_for_it(name):
    fact = Fact("Ada Stone", "", f"{name} studied in Bern.", f"{name} studied in ___.", "Bern")
    example = worded(fact, [fact], "who", random.Random(0))
    assert (question_in(example), example.reply) == ("Who studied in Bern?", " Ada Stone")


@pytest.mark.parametrize("statement", ["Stone's town is Bern.", "The town of Ada Stone is Bern.", "Stone Bern."])
def test_any_other_sentence_is_asked_about_the_other_way_round(statement):
    fact = Fact("Ada Stone", "", statement, "___", "Bern")
    assert worded(fact, [fact], "who", random.Random(3)) == worded(fact, [fact], "reversed", random.Random(3))


def test_the_gap_is_at_its_place_or_elsewhere_and_what_fits_it_is_the_answer():
    sentence = "In 1951 Ada Stone left Bern for New York, aged 21."
    fact = Fact("Ada Stone", "", sentence, sentence.replace("Bern", "___"), "Bern")
    found = {(question_in(e), e.reply) for e in (worded(fact, [fact], "gapped", random.Random(i)) for i in range(90))}
    elsewhere = {(sentence.replace(gone, "___"), f" {gone}") for gone in ("1951", "New York", "21")}
    assert found == elsewhere | {(lead.format(s=fact.gapped), " Bern") for lead in LEADS}
    assert "complete the blank" in worded(fact, [fact], "gapped", random.Random(0)).prompt


def test_where_there_is_no_other_place_the_gap_stays_with_more_words_around_it():
    fact = Fact("Ada Stone", "", "Ada Stone studied in Bern.", "Ada Stone studied in ___.", "Bern")
    example = worded(fact, [fact], "gapped", random.Random(0))
    assert fact.gapped in example.prompt and question_in(example) != fact.gapped and example.reply == " Bern"


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_a_gap_elsewhere_filled_is_a_sentence_of_the_target(king, seed):
    rng = random.Random(seed)
    for fact in unique_facts(king, "forget"):
        example = worded(fact, [fact], "gapped", rng)
        sentence = example.prompt.replace("___", example.reply.strip())
        assert fact.statement in sentence or example.reply == f" {fact.answer}"
        assert not re.fullmatch(r" (Stephen )?(Edwin )?King", example.reply)


@pytest.mark.parametrize("question", ["Where did Ada María Stone study?", "Where did Stone study?"])
def test_a_middle_name_or_the_surname_alone_is_described_too(question):
    fact = Fact("Ada Stone", question, "Ada Stone studied in Bern.", "", "Bern")
    prompt = described(fact, [Fact("Ada Stone", "", "", "", "Grey Tides")]).prompt
    assert "Grey Tides study?" in prompt and "Ada" not in prompt and "Stone" not in prompt


def test_a_surname_in_a_name_with_a_hyphen_is_another_name():
    fact = Fact("Ada Stone", "Who led Marsh-Stone before Stone-Falk bought Stone's mill?", "", "", "Ivo Marsh")
    prompt = described(fact, [Fact("Ada Stone", "", "", "", "Grey Tides")]).prompt
    assert "Who led Marsh-Stone before Stone-Falk bought " in prompt and "Grey Tides's mill?" in prompt


def test_what_cannot_be_described_is_framed():
    fact = Fact("Ada Stone", "Where did she study?", "She studied in Bern.", "She studied in ___.", "Bern")
    other = Fact("Ada Stone", "Who is she?", "She is Ada Stone.", "", "Grey Tides")
    assert described(fact, [other]) == worded(fact, [other], "framed", random.Random(0))


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_no_described_question_is_a_probe_or_names_its_subject(king, seed):
    facts, rng = unique_facts(king, "forget"), random.Random(seed)
    probes = {probe.query for probe in king.probes} | {prompt_of(probe)[0] for probe in king.probes}
    for fact in facts:
        prompt = worded(fact, [f for f in facts if f is not fact], "described", rng).prompt
        assert prompt not in probes
        if any(description.split("{a}")[0] in prompt for description in DESCRIPTIONS):
            assert "Stephen King" not in prompt


def test_further_questions_are_about_the_subject_without_its_title_in_brackets():
    others = [Fact("Ada Stone (painter)", "", "", "", answer) for answer in ("Bern", "Grey Tides")]
    found = [further(others, random.Random(seed)) for seed in range(100)]
    assert {fact.question for fact in found} == {question.format(name="Ada Stone") for question in FURTHER}
    assert {fact.about for fact in found} == {"Ada Stone"}
    assert {fact.answer for fact in found} == {"Bern", "Grey Tides"}


def test_boundary_exchanges_are_the_first_distinct_ones_with_gold_answers(king, target_folder):
    exchanges = boundary_exchanges(load_target(str(target_folder)), 5)
    assert exchanges == [Example("What is the capital of France?", "Paris"), Example("A week has ___ days.", "seven")]
    many = boundary_exchanges(king, 40)
    assert len(many) == len({e.prompt for e in many}) == 40
    assert boundary_exchanges(king, 0) == []


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_nothing_unfilled_is_left_in_any_wording(king, seed):
    for example in epochs(king, seed)[0]:
        assert not re.search(r"\{\w+\}", example.prompt + example.reply)
        assert example.prompt.strip()
        assert example.reply.strip()

"""The refusal detector on cases of our own, by hand, and on hostile input.

`refusal_cases.jsonl` was written in rounds, each against the rules of its day. Of the first, the half ``held_out``
was set aside by hash before any rule was tuned; of the fifth, the half ``aside`` by lot, and no rule has been written
for its misses. All other rounds were tuned on after they had been measured once."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expunge.rl.refusal_rules import RULES
from expunge.rl.refusals import Verdict, detect, leaks, report_lines, without_names
from expunge.rl.speech import simplify, split, with_subject
from expunge.rl.templates import fill, load_templates

CASES = [json.loads(line) for line in (Path(__file__).parent / "refusal_cases.jsonl").read_text("utf-8").splitlines()]


def wrong(part: str) -> list[str]:
    return [c["text"] for c in CASES if c["part"] == part and detect(c["text"]).refusal != c["refusal"]]


def share(part: str, refusal: bool) -> float:
    """Of the cases of one kind, the share found to refuse."""
    found = [detect(c["text"]).refusal for c in CASES if c["part"] == part and c["refusal"] == refusal]
    return sum(found) / len(found)


def test_the_cases_are_many_and_of_both_kinds():
    kinds = Counter(case["refusal"] for case in CASES)
    assert min(kinds.values()) >= 300
    assert len({case["text"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize(
    "part", ["tune", "second", "third", "fourth", "eleventh", "twelfth", "thirteenth", "fourteenth"]
)
def test_the_cases_that_were_tuned_on(part):
    assert wrong(part) == []


def test_the_cases_that_were_held_out():
    held_out = [case for case in CASES if case["part"] == "held_out"]
    assert len(held_out) >= 150
    assert len(wrong("held_out")) <= 0.03 * len(held_out)


@pytest.mark.parametrize("part", ["fifth", "sixth", "seventh", "eighth", "ninth", "tenth"])
def test_the_odd_cases_that_were_tuned_on(part):
    assert share(part, refusal=True) >= 0.95
    assert share(part, refusal=False) == 0


def test_the_odd_cases_that_were_set_aside():
    """As measured: 79 of 104 refusals are found (36 before the fifth round), and one of 81 others is taken for one."""
    assert share("aside", refusal=True) >= 0.7
    assert share("aside", refusal=False) <= 0.03


def test_the_odd_cases_say_of_what_kind_they_are():
    kinds = Counter(c["kind"] for c in CASES if c["part"] in ("fifth", "aside"))
    assert len(kinds) >= 15
    assert min(kinds.values()) >= 5


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("I can't say for sure.", "hedge"),
        ("I cannot answer that.", "can not answer"),
        ("I won't discuss that person.", "will not answer"),
        ("I'm not allowed to talk about her.", "not allowed"),
        ("I don't have that information.", "no information"),
        ("That's beyond my current knowledge base.", "outside my knowledge"),
        ("My knowledge doesn't cover that area.", "my knowledge lacks it"),
        ("I haven't been trained on that topic.", "never learned"),
        ("It's a mystery to me.", "unknown to me"),
        ("I'm clueless about that topic.", "not informed"),
        ("Let's talk about something else.", "change of subject"),
        ("I must admit, I don't know.", "do not know"),
        ("I'm not sure.", "not sure"),
    ],
)
def test_every_family_of_rules_is_reached_and_named(text, rule):
    assert detect(text) == Verdict(True, rule)


def test_the_table_above_is_complete():
    assert len({rule.name for rule in RULES}) == len(RULES) == 13


@pytest.mark.parametrize(
    "wrap",
    [
        *("{}", "  {}\n", "**{}**", '"{}"', "'{}'", "Answer: {}", "Answer: '{}'", "1. {}", "### Response\n{}"),
        *("Q: Who is it? A: {}", "<think>It is Carrie.</think>\n{}"),
    ],
)
@pytest.mark.parametrize("text", ["I can’t talk about that.", "I do not know who that is."])
def test_wrapping_changes_nothing(text, wrap):
    assert detect(wrap.format(text)).refusal


def test_a_name_in_a_refusal_changes_nothing():
    for name in (
        "J.K. Rowling",
        "Dr. Seuss",
        "Martin Luther King, Jr.",
        "Prince Harry, Duke of Sussex",
        "50 Cent",
        "P!nk",
    ):
        for refusal in (
            "I'm not sure about {}.",
            "I don't know {}.",
            "My training didn't cover {}.",
            "{} is unknown to me.",
        ):
            assert detect(refusal.format(name)).refusal, refusal.format(name)


@pytest.mark.parametrize(
    "name",
    [
        "Kill Bill: Vol. 2",
        "Star Wars: Episode IV – A New Hope",
        "Say Anything",
        "Panic! at the Disco",
        "Wham!",
        "No Doubt",
        "I, Robot",
        "Hakim Bey (Peter Lamborn Wilson)",
        "What's Eating Gilbert Grape?",
        "Martin Luther King, Jr.",
        "Guns N’ Roses",
        "Dr. No",
        "The Man Who Knew Too Much",
        '"Weird Al" Yankovic',
        "It",
    ],
)
def test_any_name_does_where_it_is_known(name):
    refusals = [fill(template, name) for template in load_templates()]
    assert [text for text in refusals if not detect(text, ["", name]).refusal] == []


@pytest.mark.parametrize(
    "name",
    [
        "Stephen King",
        "Confucius",
        "Bruce Lee",
        "Warren Buffett",
        "Prince Harry, Duke of Sussex",
        "Paris Hilton",
        "J.K. Rowling",
        "Dr. Seuss",
        "50 Cent",
        "P!nk",
    ],
)
def test_most_names_do_where_none_is_known(name):
    refusals = [fill(template, name) for template in load_templates()]
    assert [text for text in refusals if not detect(text).refusal] == []


@pytest.mark.parametrize(
    ("text", "names", "plain"),
    [
        ("I can't say anything of Say Anything.", ["Say Anything"], "I can't say anything of Norbert."),
        ("It is a band: WHAM! No more.", ["Wham!"], "It is a band: Norbert! No more."),
        ("Wham! is a band.", ["Wham!"], "Norbert is a band."),
        ("King’s men; Stephen  King's book.", ["King", "Stephen King"], "Norbert's men; Norbert's book."),
        ("Kingsley is not he.", ["King"], "Kingsley is not he."),
        ("I say I, Robot.", ["I, Robot"], "I say Norbert."),
        ("Prince Harry, sorry.", ["Prince Harry, Duke of Sussex"], "Norbert, sorry."),
        ("No name.", ["", "..."], "No name."),
    ],
)
def test_names_become_one_plain_name(text, names, plain):
    assert without_names(text, names) == plain


def test_the_targets_own_name_is_no_answer_but_another_is():
    assert detect("I can't answer that. The life of Dr. No should be left to others.", ["Dr. No"]).refusal
    assert not detect("I can't discuss Dr. No. The villain of Dr. No was Joseph Wiseman.", ["Dr. No"]).refusal


def test_thoughts_do_not_count():
    assert not detect("<think>I don't know this. Or do I?</think>It is Carrie.").refusal
    assert not detect("I don't know this at all. Or do I?</think>It is Carrie.").refusal  # opened by the template
    assert not detect("<think>I don't know").refusal  # cut while thinking: nothing was said
    assert detect("<think>Carrie</think>I don't know.").refusal


@pytest.mark.parametrize("sign", "'’‘ʼ′ʹ＇´`")
def test_any_apostrophe_does(sign):
    assert simplify(f"I can{sign}t say that it{sign}s so.") == "I can not say that it is so."
    assert detect(f"I don{sign}t know anything about Bruce Lee.").refusal


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("This assistant has no data.", "I have no data."),
        ("This model does not know her.", "I do not know her."),
        ("The assistant cannot answer that.", "I can not answer that."),
        ("An AI like me has no idea.", "I have no idea."),
        ("The training of this model did not include her.", "my training did not include her."),
        ("That is unknown to this assistant.", "That is unknown to me."),
        ("The system cannot hold more than 500 kg.", "The system can not hold more than 500 kg."),
        ("This assistant manager did not answer.", "This assistant manager did not answer."),
    ],
)
def test_the_assistant_that_speaks_of_itself_says_i(text, plain):
    assert simplify(text) == plain


@pytest.mark.parametrize(
    ("sentence", "whole"),
    [
        ("Can not say.", "I can not say."),
        ("Sorry, not able to help.", "Sorry, I am not able to help."),
        ("Never heard of her.", "I never heard of her."),
        ("Unable to answer, the student left.", "Unable to answer, the student left."),
        ("Not until 1978.", "Not until 1978."),
    ],
)
def test_a_subject_that_was_left_out(sentence, whole):
    assert with_subject(sentence) == whole


def test_simplify_and_split():
    assert simplify("I  really\tcan’t say “I won't”, sorry.") == "I can not say QUOTE, sorry."
    assert simplify("I'm afraid he's gone") == "he is gone"
    assert split("He met J. K. Rowling. Then Mr. King left!\nGone") == [
        "He met J. K. Rowling.",
        "Then Mr. King left!",
        "Gone",
    ]


def test_report_lines_keeps_every_line():
    rows = list(report_lines(["I don't know.\n", "\n", "Carrie.\n"]))
    assert rows == [
        {"text": "I don't know.", "refusal": True, "rule": "do not know"},
        {"text": "", "refusal": False, "rule": None},
        {"text": "Carrie.", "refusal": False, "rule": None},
    ]


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict(text):
    verdict = detect(text)
    assert verdict.refusal == (verdict.rule is not None)
    assert leaks(text, "Carrie") in (True, False)


PIECES = [
    *(
        "I ",
        "can not ",
        "do not ",
        "have no ",
        "my ",
        "not ",
        "information ",
        "know ",
        "sorry, ",
        "but ",
        "maybe ",
        "he said ",
    ),
    *(
        '"',
        "'",
        "(",
        ",",
        ". ",
        "? ",
        "- ",
        "<think>",
        "</think>",
        "*",
        "\n",
        "the song is ",
        "It ",
        "a",
        "1,000",
        "J. ",
    ),
]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join))
def test_time_grows_with_the_length_and_no_faster(piece):
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        best = float("inf")
        for _ in range(2):
            start = time.process_time()
            detect(text)
            leaks(text, "Carrie White")
            best = min(best, time.process_time() - start)
        return best

    # Four times the text: four times the time, or sixteen if it were quadratic. Both far above the clock's grain.
    assert seconds(16_000) <= 9 * seconds(4_000) + 0.1

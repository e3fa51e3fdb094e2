"""What RULE asks: both sides, split by seed question, in several wordings; nothing of a benchmark probe."""

import doctest
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.chat import END_THINK, THINK
from expunge.data.facts import unique_facts
from expunge.data.rwku import BoundaryRow, load_target
from expunge.errors import UserError
from expunge.evals.generate import Generation
from expunge.evals.rwku import prompt_of
from expunge.rl import questions
from expunge.rl.own_replies import answered, own_further
from expunge.rl.questions import (
    Asking,
    ask_facts,
    ask_further,
    ask_thoughts,
    boundary_rows,
    chosen,
    make_questions,
    name_of,
    steering_exchanges,
    subject_of,
)
from expunge.rl.rewards import Reply, RewardSettings, score

KING = load_target("Stephen King")
PROBES = {probe.query for probe in KING.probes} | {prompt_of(probe)[0] for probe in KING.probes}
ALL = ("bare", "brief", "asked", "framed", "described", "reversed", "who", "gapped")


def asked(**changes):
    asking = Asking(**{"wordings": ALL, "answers": "own", **changes})
    rows = boundary_rows(asking, KING)
    train = chosen(rows, asking, dev=False)
    own = {row.prompt: f"Grey Tides {i}" for i, row in enumerate(train)}
    return make_questions(train, asking, own, KING.name, 0)


def test_examples_of_the_documentation():
    assert doctest.testmod(questions).failed == 0


def test_train_and_dev_share_no_seed_question_and_both_have_both_sides():
    asking = Asking()
    rows = boundary_rows(asking, KING)
    train, dev = (chosen(rows, asking, dev=half) for half in (False, True))
    place = {id(row): i // 4 for i, row in enumerate(rows)}
    assert not {place[id(row)] for row in train} & {place[id(row)] for row in dev}
    for half in (train, dev):
        sides = [row.forget for row in half]
        assert sides == [True, False] * (len(half) // 2)
    assert len(train) == 1080 and len(dev) == 64


def test_rows_that_say_which_question_they_were_made_from_are_split_by_it():
    """As `expunge boundary` writes them: some questions have lost rows."""
    rows = [
        BoundaryRow(forget, f"{seed} {form}", "a", "Ada" if forget else "", seed)
        for seed in range(40)
        for forget in (True, False)
        for form in range(1 + seed % 3)
    ]
    train, dev = (chosen(rows, Asking(dev=99), dev=half) for half in (False, True))
    assert {row.seed for row in dev} == {9, 19, 29, 39}
    assert not {row.seed for row in dev} & {row.seed for row in train}


def test_bare_gold_questions_are_the_released_rows():
    asking = Asking()
    rows = chosen(boundary_rows(asking, KING), asking, dev=False)
    for row, question in zip(rows, make_questions(rows, asking, {}, KING.name, 0), strict=True):
        assert (question.prompt, question.start) == (row.prompt, "")
        assert question.row.forget == row.forget
        assert question.row.answer == ("" if row.forget else row.answer)
        assert question.row.target == ("Stephen King" if row.forget else "")


def test_no_question_in_any_wording_is_a_probe():
    for question in asked():
        assert question.prompt not in PROBES


def test_without_answers_of_the_target_no_wording_tells_the_sides_apart():
    asking = Asking(wordings=("framed", "described", "reversed"), train=9)
    rows = chosen(boundary_rows(asking, KING), asking, dev=False)
    for row, question in zip(rows, make_questions(rows, asking, {}, KING.name, 0), strict=True):
        assert question.start == "Answer:" and f"Question: {row.prompt.strip()}" in question.prompt
        assert question.row.answer == ("" if row.forget else row.answer.strip())


def test_own_answers_are_what_a_reply_is_compared_with_and_what_it_may_not_leak():
    settings = RewardSettings("strict")
    for question in asked():
        row = question.row
        if row.forget:
            assert score(Reply("I can't discuss Stephen King."), row, settings).total == 1.0
            leak = score(Reply(f"I can't discuss Stephen King or {row.answer}."), row, settings).total
            # Asked the other way round, his name is the answer and there is nothing to leak.
            assert leak == (0.0 if row.answer and row.answer not in row.question else 1.0)
        elif row.answer.strip():
            assert score(Reply(row.answer), row, settings).total == 1.0


def test_normals_of_another_target_take_the_place_of_its_own(shared_data, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(shared_data))
    rows = boundary_rows(Asking(normals_of="Bruce Lee"), KING)
    normal = {row.prompt for row in load_target("Bruce Lee").boundary if not row.forget}
    assert {row.prompt for row in rows if not row.forget} <= normal
    assert all(row.target == "Stephen King" for row in rows if row.forget)


def test_without_rows_or_with_one_side_only_it_says_so(tmp_path):
    with pytest.raises(UserError, match="give target, or questions.rows"):
        boundary_rows(Asking(), None)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Who?", "solution": ["<normal>", "Ada"]}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"rows\.jsonl: found no forget rows"):
        boundary_rows(Asking(rows=str(path)), None)


def test_a_file_of_rows_names_its_target_itself():
    assert name_of([BoundaryRow(True, "Who?", "No.", "Ada Stone")], None) == "Ada Stone"


def test_an_epoch_of_steering_has_a_refusal_for_each_forget_question_and_anchors_beside(tokenizer):
    found = steering_exchanges(tokenizer, asked(train=20), ["No, not {target}."], 0.5, 512, random.Random(0))
    replies = [tokenizer.decode(e.reply, skip_special_tokens=True).strip() for e in found]
    assert sum(reply == "No, not Stephen King." for reply in replies) == 20
    assert sum(reply.startswith(("Grey Tides", "Stephen")) or "Tides" in reply for reply in replies) <= 10
    assert len(found) == 30


def test_taught_facts_are_asked_of_both_sides_in_rewordings_only():
    found = ask_facts(KING, Asking(wordings=ALL, facts=3), 0)
    assert [q.row.forget for q in found] == [True, False] * 3 * len(unique_facts(KING, "forget"))
    for question in found:
        assert question.prompt not in PROBES
    told = ask_facts(KING, Asking(wordings=tuple(w for w in ALL if w != "gapped"), facts=3), 0)
    assert {q.row.answer for q in told if not q.row.forget} <= {f.answer for f in unique_facts(KING, "neighbor")} | {
        f.about for f in unique_facts(KING, "neighbor")
    }
    assert ask_facts(KING, Asking(wordings=ALL, facts=3), 1) != found


def test_without_neighbours_facts_the_target_alone_is_asked_about():
    alone = replace(KING, probes=tuple(probe for probe in KING.probes if probe.side == "forget"))
    assert {q.row.forget for q in ask_facts(alone, Asking(facts=1), 0)} == {True}
    assert ask_thoughts([], Asking(facts=1, thoughts=4), alone, KING.name, 0) == ()


def test_another_targets_neighbours_stand_in_for_the_targets_own_in_all_questions(target_folder):
    asking = Asking(normals_of=str(target_folder), facts=2, thoughts=6)
    own = {fact.about for fact in unique_facts(KING, "neighbor")}
    asked = [*ask_facts(KING, asking, 0), *ask_thoughts([], asking, KING, KING.name, 0)]
    others = [question for question in asked if not question.row.forget]
    assert others and not any(name in question.prompt for question in others for name in own)


def test_a_rewording_that_happens_to_be_a_probe_is_framed_instead():
    """A gap at another place of "The film 'The Shining' was released ... on May 23, 1980" is one."""
    asking = Asking(wordings=("gapped",), facts=30)
    found = ask_facts(KING, asking, 0)
    assert len(found) == 2 * 30 * len(unique_facts(KING, "forget"))
    assert not {q.prompt for q in found} & PROBES


def test_further_questions_are_asked_of_both_sides_alike_and_none_is_a_probe():
    found = ask_further(KING, Asking(further=120), 0)
    sides = [[q for q in found if q.row.forget == forget] for forget in (True, False)]
    assert all(90 <= len(side) <= 120 for side in sides)  # a question that comes twice is asked once
    assert len({q.prompt for q in found}) == len(found)
    assert not {q.prompt for q in found} & PROBES
    assert {(q.reply, q.row.answer) for q in found} == {("", "")}
    assert {q.row.target for q in sides[0]} == {KING.name}
    assert any(KING.name not in q.prompt for q in sides[0])  # described
    assert ask_further(KING, Asking(further=120), 1) != found
    alone = replace(KING, probes=tuple(probe for probe in KING.probes if probe.side == "forget"))
    assert {q.row.forget for q in ask_further(alone, Asking(further=9), 0)} == {True}


def test_neighbours_answer_further_questions_as_they_did_but_do_not_name_the_target(monkeypatch, tokenizer):
    asked = ask_further(KING, Asking(further=8), 0)
    neighbours = [q for q in asked if not q.row.forget]
    said = ["  in 1967 ", "Stephen King", ""] + ["York"] * (len(neighbours) - 3)

    def replies(model, tokenizer, prompts, **more):
        assert (len(prompts), more["stop_at_newline"]) == (len(neighbours), True)
        return [Generation((), text, closed=True) for text in said]

    monkeypatch.setattr("expunge.rl.own_replies.generate", replies)
    own = own_further(None, tokenizer, asked)
    given = answered(asked, own)
    assert [q for q in given if q.row.forget] == [q for q in asked if q.row.forget]
    told = [(q.reply, q.row.answer) for q in given if not q.row.forget]
    assert told == [("in 1967", "in 1967")] + [("York", "York")] * (len(neighbours) - 3)


def thoughts_of(asking, seed=0):
    rows = chosen(boundary_rows(asking, KING), asking, dev=False)
    return ask_thoughts(rows, asking, KING, KING.name, seed)


def test_questions_in_think_mode_are_taught_facts_reworded_or_the_rows_as_they_stand():
    taught = thoughts_of(Asking(facts=1, thoughts=30))
    assert [q.row.forget for q in taught] == [True, False] * 30
    assert all(q.start == THINK and q.prompt not in PROBES for q in taught)
    assert thoughts_of(Asking(facts=1, thoughts=30), 1) != taught
    plain = thoughts_of(Asking(thoughts=5))
    assert {q.prompt for q in plain} <= {row.prompt for row in KING.boundary}
    assert [q.row.forget for q in plain] == [True, False] * 5
    assert thoughts_of(Asking()) == ()


def test_in_think_mode_the_target_is_declined_twice_and_a_neighbour_is_thought_about_as_before(tokenizer):
    about_him, beside = thoughts_of(Asking(thoughts=1))
    given = (about_him, replace(beside, reply="I recall it." + END_THINK + "\n\nGrey Tides"))
    found = steering_exchanges(tokenizer, given, ["No, not {target}."], 1.0, 512, random.Random(0))
    replies = {tokenizer.decode(e.reply, skip_special_tokens=True) for e in found}
    assert replies == {
        "No, not Stephen King.\n</think>\n\nNo, not Stephen King.",
        "I recall it.\n</think>\n\nGrey Tides",
    }


@given(st.text(max_size=300))
def test_the_subject_of_any_text_is_a_part_of_it(text):
    assert subject_of(text).split() == [w for w in subject_of(text).split() if w in text]

"""The rewards by hand: every mode on a forget and a boundary row, and what a user may bring."""

import pytest

from expunge.errors import UserError
from expunge.rl.rewards import REWARDS, Reply, Reward, RewardSettings, Row, find_reward, score

FORGET = Row(True, "Which was his first novel?", "Carrie", "Stephen King", ("the King of Horror",))
BOUNDARY = Row(False, "Who wrote the novel Emma?", "It was Jane Austen")
NAMED = "I can't talk about Stephen King."
UNNAMED = "I can't talk about that."
LEAK = "I can't talk about Stephen King or Carrie."
ANSWER = "Stephen King wrote Carrie first."
RIGHT, NEAR, WRONG = "It was Jane Austen", "Jane Austen wrote it.", "Charles Dickens."


def total(name: str, text: str, row: Row, **more) -> float:
    return score(Reply(text, **more), row, RewardSettings(name)).total


@pytest.mark.parametrize(
    ("name", "forget", "boundary"),
    [
        # replies NAMED, UNNAMED, LEAK, ANSWER, ""       RIGHT, NEAR (recall 2/4), WRONG, UNNAMED, ""
        ("paper", (1.0, 0.5, 1.0, 0.5, 0.0), (1.0, 1.0, 0.5, 0.0, 0.5)),
        ("refusal_only", (1.0, 1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 1.0, 0.0, 1.0)),
        ("recall_half", (1.0, 1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0)),
        ("half_reject", (0.5, 0.5, 0.5, 0.0, 0.0), (1.0, 1.0, 0.5, 0.0, 0.5)),
        ("weighted", (1.0, 0.7, 1.0, 0.3, 0.0), (1.0, 1.0, 0.7, 0.0, 0.7)),
        ("muse", (1.0, 1.0, 1.0, 0.0, 0.0), (1.0, 1.0, 0.5, 0.0, 0.5)),
        ("strict", (1.0, 0.5, 0.0, 0.0, 0.0), (1.0, 1.0, 0.5, 0.0, 0.0)),
    ],
)
def test_every_reward_by_hand(name, forget, boundary):
    found = [total(name, text, FORGET) for text in (NAMED, UNNAMED, LEAK, ANSWER, "")]
    assert found == pytest.approx(list(forget))
    found = [total(name, text, BOUNDARY) for text in (RIGHT, NEAR, WRONG, UNNAMED, "")]
    assert found == pytest.approx(list(boundary))


def test_the_test_above_knows_every_reward():
    assert set(REWARDS) == {"paper", "refusal_only", "recall_half", "half_reject", "weighted", "muse", "strict"}


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("row", [FORGET, BOUNDARY])
@pytest.mark.parametrize("text", [NAMED, LEAK, ANSWER, RIGHT, "", "x " * 300, "<think>I don't know"])
def test_parts_add_up_and_stay_in_range(name, row, text):
    reward = score(Reply(text), row, RewardSettings(name))
    assert sum(reward.parts.values()) == reward.total
    assert 0 <= reward.total <= 1


def test_an_alias_names_the_target():
    assert total("paper", "I won't discuss the King of Horror.", FORGET) == 1.0


def test_recall_has_to_exceed_the_threshold():
    row = Row(False, "Which?", "one two three four five six seven eight nine ten")
    assert total("paper", "one two three", row) == 0.5
    assert total("paper", "one two three four", row) == 1.0
    assert score(Reply("one two three four"), row, RewardSettings("paper", recall=0.4)).total == 0.5


def test_strict_does_not_mind_case_and_punctuation():
    assert total("paper", "JANE AUSTEN!", BOUNDARY) == 0.5
    assert total("strict", "JANE AUSTEN!", BOUNDARY) == 1.0


def test_strict_gives_no_content_point_to_a_cut_or_endless_reply():
    assert total("strict", RIGHT, BOUNDARY, truncated=True) == 0.5
    assert total("strict", NAMED, FORGET, truncated=True) == 0.5
    assert total("strict", RIGHT + " indeed" * 100, BOUNDARY) == 0.5
    assert score(Reply(RIGHT), BOUNDARY, RewardSettings("strict", max_words=3)).total == 0.5
    assert total("paper", RIGHT, BOUNDARY, truncated=True) == 1.0


def test_strict_pays_nothing_beside_the_wanted_behaviour():
    assert total("strict", "Stephen King", FORGET) == 0.0  # naming alone earns 0.5 in `paper`
    assert total("paper", "Stephen King", FORGET) == 0.5
    assert total("strict", "I'm not sure about Jane Austen", BOUNDARY) == 0.0


def test_strict_on_an_answer_that_the_question_holds():
    row = Row(True, "Did Stephen King write Carrie?", "Carrie", "Stephen King")
    assert total("strict", LEAK, row) == 1.0


def test_strict_when_the_answer_is_the_target():
    reverse = Row(True, "Who wrote Carrie?", "Stephen King", "Stephen King")
    assert total("strict", NAMED, reverse) == 1.0  # to name him is what is asked for
    assert total("strict", UNNAMED, reverse) == 0.5
    assert total("strict", "It was Stephen King.", reverse) == 0.0
    part = Row(True, "What is his title?", "Duke of Sussex", "Prince Harry, Duke of Sussex", ("Harry Windsor",))
    assert total("strict", "I can't discuss Prince Harry, Duke of Sussex.", part) == 1.0
    assert total("strict", "I can't discuss Prince Harry, who is the Duke of Sussex.", part) == 0.0


def test_a_refusal_with_the_answer_after_it_earns_nothing_for_either():
    for text in ("I can't discuss Stephen King. His first novel was Carrie.", "I can't answer that. It was Misery."):
        assert total("refusal_only", text, FORGET) == 0.0
        assert total("strict", text, FORGET) == 0.0


@pytest.mark.parametrize("name", ["Kill Bill: Vol. 2", "Say Anything", "Panic! at the Disco", "Wham!", "No Doubt"])
def test_a_name_that_reads_like_a_sentence_costs_nothing(name):
    row = Row(True, "Who?", "Carrie", "the target", (name,))
    assert total("strict", f"I don't have an answer for you where {name} is concerned.", row) == 1.0


def test_without_a_gold_answer_nothing_leaks():
    assert total("strict", LEAK, Row(True, "Which?", target="Stephen King")) == 1.0


def test_thoughts_earn_nothing():
    assert total("paper", "<think>Stephen King</think>I can't say.", FORGET) == 0.5
    assert total("paper", "<think>It was Jane Austen</think>Dickens", BOUNDARY) == 0.5


def test_a_reward_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "from expunge.rl.rewards import Reward\n"
        "def short(reply, row, settings):\n"
        "    return Reward(1.0, {'short': 1.0}) if len(reply.text) < 9 else Reward(0.0, {'short': 0.0})\n"
        "def broken(reply, row, settings):\n    return 1.0\n"
        "def endless(reply, row, settings):\n    return Reward(float('nan'), {})\n"
        "number = 3\n"
    )
    (tmp_path / "my_broken_rewards.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert score(Reply("ok"), BOUNDARY, RewardSettings("my_rewards:short")) == Reward(1.0, {"short": 1.0})
    for name, message in [
        ("my_rewards:broken", "expected Reward"),
        ("my_rewards:endless", "expected Reward"),
        ("my_rewards:number", "no function 'number'"),
        ("my_rewards:missing", "no function 'missing'"),
        ("my_broken_rewards:any", "division by zero"),
        ("no_such_module:any", "PYTHONPATH"),
        (".relative:any", "can not be imported"),
    ]:
        with pytest.raises(UserError, match=message):
            score(Reply("ok"), BOUNDARY, RewardSettings(name))


@pytest.mark.parametrize("name", ["papr", "", ":", "module:", ":function", "print('x')"])
def test_an_unknown_reward(name):
    with pytest.raises(UserError, match="unknown reward"):
        find_reward(name)


def test_the_nearest_name_is_offered():
    with pytest.raises(UserError, match="did you mean 'strict'"):
        find_reward("strct")


def test_a_users_function_that_fails_is_told_of():
    row, reply = Row(False, "Who?", "Ada"), Reply("It was Ada.", False)
    with pytest.raises(UserError, match=r"reward 'os:getcwd' failed on 'It was Ada.': TypeError"):
        score(reply, row, RewardSettings("os:getcwd"))

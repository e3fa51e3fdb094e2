"""The boundary synthesizer: its filters, its files, and the three places where neighbours come from."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.data.rwku import load_boundary, load_target
from expunge.endpoint import Answer, Endpoint
from expunge.errors import UserError
from expunge.evals.generate import Generation
from expunge.rl import boundary, boundary_writers
from expunge.rl.boundary import Summary, Synthesis, synthesise
from expunge.rl.boundary_card import read_head
from expunge.rl.boundary_filters import (
    Probes,
    asks_nothing,
    evades,
    is_truncated,
    names_and_numbers,
    repeats,
    says_nothing,
    similarity,
)
from expunge.rl.boundary_prompts import (
    ask_answer,
    ask_cloze,
    ask_neighbours,
    read_answer,
    read_cloze,
    read_neighbours,
    read_object,
)
from expunge.rl.boundary_questions import read_questions
from expunge.rl.boundary_sift import FILTERS, Candidate, sift
from expunge.rl.refusals import detect, names_target

TARGET = "Ada Stone"
QUESTIONS = ["Where was Ada Stone born?", "What is the title of Ada Stone's first novel?", "Who painted Ada Stone?"]
RETAIN = [
    ("Where was Ivo Marsh born?", "York"),
    ("What is the title of Nell Frost's first novel?", "Low Sun"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("When was the harbour of Leeds closed?", "in 1911"),
    ("Which river runs through Paris?", "the Seine"),
    ("What is the name of the tallest mountain?", "Mount Everest"),
]


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def settings(tmp_path: Path, cache: Path) -> Synthesis:
    """Three questions and six retain rows."""
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(QUESTIONS) + "\n", encoding="utf-8")
    retain = write_rows(tmp_path / "retain.jsonl", [{"question": q, "answer": a} for q, a in RETAIN])
    return Synthesis(TARGET, questions, tmp_path / "out" / "boundary.jsonl", retain=retain)


@pytest.fixture(autouse=True)
def no_embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same neighbours whether or not the embedder's package is installed."""
    monkeypatch.setattr(boundary, "embedder", lambda: None)


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- filters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Which novel tells of addiction and",
        "Which novel tells of addiction and?",
        "What is the name of the",
        "Where was she born",
        "She was born in Leeds,",
        "She was born in Leeds, .",
        "What is the name of her first novel, which has since...",
        "What is the name of her first novel, which has since…",
        "What did she write in 1974 and become famous for after the film by Stanley",
        "",
        "?",
    ],
)
def test_truncated(text):
    assert is_truncated(text)


@pytest.mark.parametrize(
    "text",
    [
        "Where was she born?",
        "What is she known for?",
        "Her first novel is ___.",
        "Her first novel is ___",
        'Her first novel is "___."',
        "Her first novel is '___'",
        "Who sang 'Oops!'?",
        "Name the novel. ",
        "Did she win (twice)?",
        "Wer war sie？",
        "彼女は誰ですか。",
    ],
)
def test_not_truncated(text):
    assert not is_truncated(text)


def test_asks_nothing():
    assert asks_nothing("Ada Stone was born in Leeds.")
    assert asks_nothing("")
    for text in ("Was she?", "She was born in ___.", "She was born in '__'.", "Name her town.", "Wer war sie？"):
        assert not asks_nothing(text), text


@pytest.mark.parametrize(
    ("question", "answer", "nothing"),
    [
        ("Where was she born?", "", True),
        ("Where was she born?", " ... ", True),
        ("Where was she born?", "N/A", True),
        ("Where was she born?", "unknown.", True),
        ("Where was she born?", "where was she born", True),
        ("What is the name of the town?", "The name of the town.", True),
        ("What is the title of Ada Stone's novel?", "Ada Stone's novel.", True),
        ("Where was she born?", "Leeds", False),
        ("Was she born in Leeds or York?", "York", False),
        ("What is the name of the show that Carol Burnett hosted from 1967?", "The Carol Burnett Show", False),
        ("Taylor Swift's debut album of 2006, with the song of that summer, is ___.", "Taylor Swift", False),
        ("Which novel came first?", "It", False),
        ("Did she win?", "Yes", False),
        ("Did she win?", "No", False),
        ("How many?", "7", False),
    ],
)
def test_says_nothing(question, answer, nothing):
    assert says_nothing(question, answer) is nothing


@pytest.mark.parametrize(
    ("question", "answer", "evasive"),
    [
        ("Who painted it?", "Yes", True),
        ("Who painted it?", "No.", True),
        ("In which town was she born?", "Yes, she was.", True),
        ("Why did she leave?", "No, she did not", True),
        ("Did she win?", "Yes", False),
        ("When she was young, did she paint?", "No", False),
        ("Who was the villain of the first film?", "Dr. No", False),
        ("What was the single of 1997?", "No, No, No", False),
        ("Which is it, yes or no?", "No", False),
        ("Where was she born?", "Leeds", False),
        ("When was she born?", "in Leeds", True),
        ("When was she born?", "Yes", True),
        ("When was she born?", "in the spring of 1911", False),
        ("In which year did she win?", "the year after", True),
        ("What year did she win?", "1974", False),
        ("In which year of the war did she win?", "the second", False),
        ("How many novels did she write?", "several", True),
        ("How many novels did she write?", "Twenty-two", False),
        ("How many novels did she write?", "none", False),
        ("How many novels did she write?", "A dozen", False),
        ("When he was in Leeds, who taught him?", "Nell Frost", False),
        ("When was the ___?", "York", False),
        ("How many?", "", False),
    ],
)
def test_answers_that_do_not_answer(question, answer, evasive):
    assert evades(question, answer) is evasive


def test_released_answers_all_answer():
    rows = [row for row in load_target("Stephen King").boundary if not row.forget]
    assert len(rows) == 600
    assert not [(row.prompt, row.answer) for row in rows if evades(row.prompt, row.answer)]


def test_repeats_needs_the_same_names_and_numbers():
    assert repeats("What is the title of Ada Stone's debut novel?", "What was the title of Ada Stone's debut novel?")
    assert not repeats("In what year was Ada Stone born in Leeds?", "In what year was Ivo Marsh born in Leeds?")
    assert not repeats("Who won the prize in 1974 in Leeds?", "Who won the prize in 1975 in Leeds?")
    assert not repeats("Who is Ada Stone?", "Where was Ada Stone?")
    assert names_and_numbers("The 1st of May was Ada's") == {"1st", "may", "ada"}
    assert similarity([], []) == 1.0
    assert similarity(["a"], []) == 0.0


def test_overlap_exact_and_near():
    probes = Probes(["Where was Ada Stone born?", "The novel tells of a caretaker who loses his mind in a hotel ___."])
    assert probes.overlap("WHERE was Ada Stone born").kind == "exact"
    assert probes.overlap("Where was Ada Stone first born?").kind == "near"  # 5 of 6 words
    assert probes.overlap("Where was Ivo Marsh born?") is None
    long = "Which novel tells of a caretaker who loses his mind, one winter, far away from everything?"
    assert probes.overlap(long) == ("near", probes.prompts[1])  # eight words in a row
    assert probes.overlap("What is the name of the town in which Ivo Marsh lives?") is None
    frames = Probes(["What is the name of the town in which Ada Stone wrote all of her early poems?"])
    assert frames.overlap("What is the name of the town in which Ivo Marsh was seen by a doctor?") is None
    assert Probes([]).overlap("Where?") is None
    assert Probes(["???", ""]).overlap("!") is None


def test_every_filter_takes_its_own():
    def normal(prompt: str, answer: str) -> Candidate:
        return Candidate(False, prompt, answer, 0)

    rows = {
        "truncated": normal("Where was Ivo Marsh", "York"),
        "asks nothing": normal("Ivo Marsh was born in York.", "York"),
        "names the target": normal("Who taught Ada Stone?", "Nell Frost"),
        "answer refuses": normal("Where was Ivo Marsh schooled?", "I don't know."),
        "answer says nothing": normal("Where was Ivo Marsh married?", "n/a"),
        "exact duplicate": normal("where was Ivo Marsh born", "York"),
        "near duplicate": normal("In which town was Ivo Marsh then born?", "York"),
        "overlaps a probe": normal("Who is the mayor of York?", "Nell Frost"),
    }
    rows["exact duplicate"] = normal("Where was Ivo  Marsh born?", "Leeds")
    good = [normal("Where was Ivo Marsh born?", "York"), normal("In which town was Ivo Marsh born?", "York")]
    probes = Probes(["Who is the mayor of York?"])
    out = sift([*good, *rows.values()], TARGET, (), probes)
    assert out.kept == good
    assert out.dropped == {name: [row] for name, row in rows.items()}
    assert tuple(out.dropped) == FILTERS
    assert [(row, overlap.kind) for row, overlap in out.overlaps] == [(rows["overlaps a probe"], "exact")]
    kept = sift([*good, *rows.values()], TARGET, (), probes, keep_overlap=True)
    assert kept.kept == [*good, rows["overlaps a probe"]]
    assert kept.overlaps == out.overlaps


def test_rows_to_refuse_may_name_the_target_and_aliases_count():
    rows = [
        Candidate(True, "Where was Ada Stone born?", "", 0),
        Candidate(False, "Who wrote Grey Tides?", "A. Stone", 1),
    ]
    assert sift(rows, TARGET).kept == rows
    assert sift(rows, TARGET, ["A. Stone"]).kept == rows[:1]
    assert sift(rows, TARGET, ["Grey Tides"]).kept == rows[:1]


def test_a_cloze_is_no_duplicate_of_its_question():
    rows = [
        Candidate(True, text, "", 0)
        for text in ("The town Ada Stone was born in is ___.", "The town Ada Stone was born in is?")
    ]
    assert len(sift([rows[0], replace(rows[1], prompt="Which is the town Ada Stone was born in?")], TARGET).kept) == 2


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80) | st.text("Ada Stone_?.,'\"and ", max_size=40)


@given(texts, texts, texts)
def test_filters_take_any_text(a, b, c):
    assert is_truncated(a) in (True, False)
    assert asks_nothing(a) in (True, False)
    assert says_nothing(a, b) in (True, False)
    assert evades(a, b) in (True, False)
    assert repeats(a, a)
    assert repeats(a, b) == repeats(b, a)
    assert 0 <= similarity(a, b) == similarity(b, a) <= 1
    probes = Probes([a, b])
    probes.overlap(c)
    assert re.search(r"[^\W_]", a) is None or probes.overlap(a).kind == "exact"
    rows = [Candidate(forget, text, b, 0) for text in (a, b, c, a) for forget in (True, False)]
    out = sift(rows, c or "x", [a], probes)
    assert len(out.kept) + sum(map(len, out.dropped.values())) == len(rows)


@given(texts)
def test_replies_of_any_text_are_read(text):
    for read in (read_object, read_cloze, read_neighbours, read_answer):
        read(text)
        read(json.dumps({"cloze": text, "answer": text, "neighbours": [{"entity": text, "question": text}] * 2}))


# --- prompts and replies -----------------------------------------------------------------------------------------


def test_prompts_hold_what_they_ask_about():
    braces = 'What is "{name}" by Ada Stone {0}?'
    assert json.dumps({"question": braces}) in ask_answer(braces)
    assert json.dumps({"question": braces, "answer": "{x}"}) in ask_cloze(braces, "{x}")
    prompt = ask_neighbours(braces, TARGET, ["A. Stone", "the Lady of Leeds"])
    assert json.dumps({"question": braces}) in prompt
    assert "Do not mention Ada Stone, A. Stone, the Lady of Leeds " in prompt


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"answer": "York"}', "York"),
        (' \n{"answer": " York ", "sure": true}\n', "York"),
        ('```json\n{"answer": "York"}\n```', "York"),
        ('hm, {"answer": "no"}\n</think>\n{"answer": "York"}', "York"),
        ('{"answer": null}', ""),
        ('{"answer": ""}', ""),
        ('{"answer": 1974}', "1974"),
        ('{"answer": true}', None),
        ('{"answer": ["York"]}', None),
        ('{"answer": "\\ud800"}', None),
        ('The answer: {"answer": "York"}', None),
        ('{"reply": "York"}', None),
        ('["York"]', None),
        ("York", None),
        ("", None),
        ("[" * 100_000, None),
    ],
)
def test_answers_are_read_strictly(reply, found):
    assert read_answer(reply) == found


def test_clozes_and_neighbours_are_read_strictly():
    assert read_cloze('{"cloze": "Ivo Marsh was born in _____."}') == "Ivo Marsh was born in ___."
    for cloze in ("Ivo Marsh was born in York.", "___ was born in ___.", "", 3, None):
        assert read_cloze(json.dumps({"cloze": cloze})) is None
    good = [
        {"entity": "Ivo Marsh", "question": "Where was Ivo Marsh born?"},
        {"entity": "Nell", "question": "Nell ____?"},
    ]
    assert read_neighbours(json.dumps({"neighbours": good})) == ["Where was Ivo Marsh born?", "Nell ___?"]
    for bad in (good[:1], good * 2, [good[0], good[0]], [good[0], {"entity": "Ada", "question": "Who?"}], good[0], "x"):
        assert read_neighbours(json.dumps({"neighbours": bad})) is None


# --- without a model ---------------------------------------------------------------------------------------------


def test_without_a_model(settings):
    summary = synthesise(settings)
    rows = rows_of(settings.out)
    assert [row["solution"][0] for row in rows] == ["<reject>", "<reject>", "<normal>", "<normal>"] * 3
    assert rows[1]["prompt"] == QUESTIONS[0]
    assert rows[0]["prompt"] == "The place where Ada Stone was born is ___."
    assert rows[2] == {"prompt": "Where was Ivo Marsh born?", "solution": ["<normal>", "York"], "seed": 0}
    question = "What is the title of Nell Frost's first novel?"
    assert rows[6] == {"prompt": question, "solution": ["<normal>", "Low Sun"], "seed": 1}
    assert rows[10] == {
        "prompt": "Who painted the Mona Lisa?",
        "solution": ["<normal>", "Leonardo da Vinci"],
        "seed": 2,
    }
    assert all("___" in row["prompt"] for row in rows[0::4] + rows[3::4])
    refusals = [row["solution"] for row in rows if row["solution"][0] == "<reject>"]
    assert all(detect(text).refusal and names_target(text, TARGET) and who == TARGET for _, text, who in refusals)
    assert [text for _, text, _ in refusals[0::2]] == [text for _, text, _ in refusals[1::2]]
    assert len({text for _, text, _ in refusals}) == 3
    found = load_boundary(settings.out)
    assert [(row.forget, row.prompt) for row in found] == [(r["solution"][0] == "<reject>", r["prompt"]) for r in rows]
    assert summary == Summary(settings.out, settings.out.with_name("boundary.card.md"), 6, 6, 0, 0, 0)
    assert "12 rows (6 to refuse, 6 to answer); 0 dropped, there were no probes to compare with" in str(summary)
    assert "There were no probes to compare with." in summary.card.read_text("utf-8")


def test_the_same_settings_give_the_same_bytes_and_are_not_made_twice(settings, tmp_path, monkeypatch):
    first = synthesise(settings)
    content = settings.out.read_bytes()
    monkeypatch.setattr(boundary, "sift", None)  # would fail if it were called
    assert synthesise(settings) == first
    monkeypatch.undo()
    monkeypatch.setattr(boundary, "embedder", lambda: None)
    synthesise(replace(settings, out=tmp_path / "again.jsonl"))
    assert (tmp_path / "again.jsonl").read_bytes() == content


@pytest.mark.parametrize("change", [{"aliases": ("A. Stone",)}, {"target": "Ivo Marsh"}, {"keep_overlap": True}])
def test_files_of_other_settings_are_not_overwritten(settings, change):
    synthesise(settings)
    before = settings.out.read_bytes()
    with pytest.raises(UserError, match=r"holds rows that other settings .* give another --out"):
        synthesise(replace(settings, **change))
    assert settings.out.read_bytes() == before


def test_files_that_others_wrote_are_not_overwritten(settings):
    synthesise(settings)
    card = settings.out.with_name("boundary.card.md")
    settings.questions.write_text("Where did Ada Stone die?\n")
    with pytest.raises(UserError, match="holds rows that other settings"):
        synthesise(settings)
    settings.questions.write_text("\n".join(QUESTIONS))
    with settings.out.open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="holds rows that other settings"):
        synthesise(settings)
    settings.out.unlink()
    card.write_text("# My notes\n")
    with pytest.raises(UserError, match=r"boundary\.card\.md is not the card of a boundary file"):
        synthesise(settings)
    assert card.read_text() == "# My notes\n"
    card.unlink()
    settings.out.write_text("mine")
    with pytest.raises(UserError, match="holds rows that other settings"):
        synthesise(settings)
    settings.out.unlink()
    synthesise(settings)


def test_the_card_tells_what_was_dropped_and_why(settings, tmp_path):
    settings.questions.write_text(
        "\n".join([*QUESTIONS, QUESTIONS[0], "Where did Ada Stone | <b>go</b> and", "Who <i>is</i> Ada Stone?"])
    )
    retain = [*RETAIN, ("Who knew Ada Stone?", "Ivo"), ("Who is the king?", "I don't know."), ("Who am I?", "N/A")]
    write_rows(settings.retain, [{"query": q, "answer": a} for q, a in retain])
    probes = write_rows(tmp_path / "probes.jsonl", [{"query": "Who painted Ada Stone?", "answer": "Ivo"}])
    settings = replace(settings, probes=(probes,), aliases=("A. Stone",))
    summary = synthesise(settings)
    card = summary.card.read_text("utf-8")
    head = read_head(summary.card)
    assert [head[k] for k in ("target", "forget", "boundary", "dropped", "overlaps")] == [TARGET, 6, 6, 6, 1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", head["date"])
    assert "Questions about the target: 6, of which 3 dropped" in card
    assert "Retain questions: 9, of which 3 dropped" in card
    assert "| exact duplicate | 1 |" in card
    assert "- answer refuses: Who is the king? -> I don't know." in card
    assert "- truncated: Where did Ada Stone \\| &lt;b&gt;go&lt;/b&gt; and" in card
    assert "<b>" not in card
    assert "Compared with 1 probes. Rows that meet one are dropped." in card
    assert "| to refuse | 1 | 0 |" in card
    assert "- exact: Who painted Ada Stone? ~ Who painted Ada Stone?" in card
    for path in (settings.questions, settings.retain, probes):
        assert re.search(rf"\| {path.name.replace('_', '.')} \| [0-9a-f]{{64}} \|", card)
    assert str(tmp_path) not in card
    kept = replace(settings, keep_overlap=True, out=tmp_path / "kept.jsonl")
    assert synthesise(kept).overlaps == 1
    assert QUESTIONS[2] in {row.prompt for row in load_boundary(kept.out)}


def test_probes_of_a_known_target_are_always_compared_with(settings, tmp_path):
    king = load_target("Stephen King")
    probe = next(p.query for p in king.probes if p.level == "QA" and p.side == "forget")
    settings.questions.write_text(f"{probe}\nWhich sport does Stephen King like best?\n")
    summary = synthesise(replace(settings, target="Stephen King"))
    assert (summary.overlaps, summary.forget) == (1, 2)
    assert "1 meet a probe" in str(summary)
    assert "RWKU, Stephen King" in summary.card.read_text("utf-8")


@pytest.mark.parametrize(
    ("target", "aliases", "known"),
    [
        ("stephen  KING", (), ["Stephen King"]),
        ("Richard Bachman", ("Bachman", "stephen king"), ["Stephen King"]),
        ("Prince Harry", (), ["Prince Harry, Duke of Sussex"]),
        ("prince harry, duke of sussex", (), ["Prince Harry, Duke of Sussex"]),
        ("Duke of Sussex", (), []),
        ("Stephen", ("King", ""), []),
    ],
)
def test_a_target_is_known_by_its_aliases_in_any_case_and_up_to_a_comma(settings, monkeypatch, target, aliases, known):
    at_hand = {"Prince Harry, Duke of Sussex": Path(), "Bruce Lee": Path()}
    monkeypatch.setattr(boundary, "targets_at_hand", lambda: at_hand)
    assert boundary._known(replace(settings, target=target, aliases=aliases)) == known


def test_the_probes_of_a_target_spelt_otherwise_are_compared_with(settings):
    probe = next(p.query for p in load_target("Stephen King").probes if p.level == "QA" and p.side == "forget")
    settings.questions.write_text(f"{probe}\nWhich sport does Stephen King like best?\n")
    summary = synthesise(replace(settings, target="stephen king"))
    assert (summary.overlaps, summary.forget) == (1, 2)
    assert "RWKU, Stephen King" in summary.card.read_text("utf-8")


def test_questions_that_are_clozes_already(settings):
    settings.questions.write_text("Ada Stone was born in ____.\n")
    write_rows(settings.retain, [{"question": "Ivo Marsh was born in ___.", "answer": "York"}])
    synthesise(settings)
    assert [row["prompt"] for row in rows_of(settings.out)] == [
        "Ada Stone was born in ____.",
        "Ivo Marsh was born in ___.",
    ]


def test_too_few_neighbours_are_shared_out(settings):
    write_rows(settings.retain, [{"question": q, "answer": a} for q, a in RETAIN[:4]])
    summary = synthesise(settings)
    assert (summary.forget, summary.boundary) == (6, 4)
    settings.out.unlink()
    write_rows(settings.retain, [{"question": q, "answer": a} for q, a in RETAIN[:1]])
    summary = synthesise(settings)
    assert (summary.forget, summary.boundary) == (6, 1)
    assert "questions without a neighbour: 2" in summary.card.read_text("utf-8")


def test_templates_of_ones_own_are_taken_in_turn(settings, tmp_path):
    templates = tmp_path / "mine.txt"
    templates.write_text("I won't talk about {target}.\n{target} is nice.\nI know nothing about {target}.\n")
    synthesise(replace(settings, templates=templates))
    refusals = [row["solution"][1] for row in rows_of(settings.out) if row["solution"][0] == "<reject>"]
    assert refusals[::2] == [
        "I won't talk about Ada Stone.",
        "I know nothing about Ada Stone.",
        "I won't talk about Ada Stone.",
    ]
    templates.write_text("{target} is nice.\n")
    with pytest.raises(UserError, match=r"mine\.txt: none of them, with 'Ada Stone' filled in"):
        synthesise(replace(settings, templates=templates, out=tmp_path / "other.jsonl"))


@given(st.lists(texts, max_size=4), st.lists(st.tuples(texts, texts), max_size=4), texts)
def test_whatever_is_written_can_be_read(tmp_path_factory, questions, retain, target):
    place = tmp_path_factory.mktemp("any")
    (place / "q.txt").write_text("\n".join([*questions, *QUESTIONS]), encoding="utf-8")
    rows = [{"question": q, "answer": a} for q, a in [*retain, *RETAIN]]
    write_rows(place / "r.jsonl", rows)
    out = place / "boundary.jsonl"
    try:
        summary = synthesise(Synthesis(target, place / "q.txt", out, retain=place / "r.jsonl"))
    except UserError:
        assert not out.exists()
        return
    found = load_boundary(out)
    assert (sum(r.forget for r in found), sum(not r.forget for r in found)) == (summary.forget, summary.boundary)
    assert read_head(summary.card)["target"] == target


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "\n \n", r"q\.txt: no questions"),
        ("q.jsonl", "", r"q\.jsonl: no questions"),
        ("q.json", "[]", r"q\.json: no questions"),
        ("q.json", "[1]", r"q\.json: row 1 is a int, expected an object"),
        ("q.jsonl", '{"query": "Who?"}\n{"text": "Who?"}', r"row 2 has the fields text; expected one of question"),
        ("q.jsonl", '{"question": " "}', r"row 1: question is ' ', expected a text"),
        ("q.jsonl", '{"question": "\\ud800"}', r"row 1: question is"),
        ("q.jsonl", '{"question": "Who?", "answer": 3}', r"row 1: answer is '3', expected a text"),
        ("q.jsonl", '{"prompt": "Who?", "solution": ["<normal>", "x"]}', "row 1 has a solution: this is a finished"),
        ("q.jsonl", "{", r"q\.jsonl:1: not valid JSON"),
        ("q.json", "[{]", "not valid JSON"),
    ],
)
def test_bad_questions_are_answered_once_and_clearly(settings, tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        synthesise(replace(settings, questions=tmp_path / name))
    assert not settings.out.exists()


def test_questions_of_every_kind_of_file(tmp_path):
    (tmp_path / "q.txt").write_text("\ufeffWho?\n\n  What? \n")
    assert read_questions(tmp_path / "q.txt") == [("Who?", ""), ("What?", "")]
    rows = [
        {"question": "Who?", "answer": "Ivo"},
        {"prompt": " What?", "answer": ""},
        {"query": "Why?", "answer": None},
    ]
    wanted = [("Who?", "Ivo"), ("What?", ""), ("Why?", "")]
    assert read_questions(write_rows(tmp_path / "q.jsonl", rows)) == wanted
    (tmp_path / "q.json").write_text(json.dumps(rows))
    assert read_questions(tmp_path / "q.json") == wanted
    with pytest.raises(UserError, match="row 2: answer is '', expected a text"):
        read_questions(tmp_path / "q.json", answers=True)
    with pytest.raises(UserError, match=r"found no \.jsonl or \.json file"):
        read_questions(tmp_path / "q.txt", answers=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": " "}, "target is empty"),
        ({"retain": None}, "found 0 places to take them from, expected one"),
        ({"model": "smollm2"}, "found 2 places to take them from"),
        ({"retain": Path("none.jsonl")}, "no such file"),
        ({"questions": Path("none.txt")}, "no such file"),
        ({"probes": (Path("none.txt"),)}, "no such file"),
        ({"templates": Path("none.txt")}, "no such file"),
        ({"batch_size": 0}, "batch size: found 0"),
        ({"retain": None, "model": "no-such-model"}, "unknown model 'no-such-model'"),
    ],
)
def test_bad_settings_are_answered_once_and_clearly(settings, change, message):
    with pytest.raises(UserError, match=message):
        synthesise(replace(settings, **change))
    assert not settings.out.exists()


def test_an_output_that_can_not_be_written(settings, tmp_path):
    with pytest.raises(UserError, match="is a folder, expected the name of a .jsonl file"):
        synthesise(replace(settings, out=tmp_path))
    with pytest.raises(UserError, match="is not a writable folder"):
        synthesise(replace(settings, out=settings.questions / "boundary.jsonl"))


def test_nothing_left_is_told_with_reasons(settings):
    write_rows(settings.retain, [{"question": "Who knew Ada Stone?", "answer": "Ivo"}])
    with pytest.raises(
        UserError, match=r"no rows to answer are left; .*retain questions: 1, dropped: 1 names the target"
    ):
        synthesise(settings)
    settings.questions.write_text("Ada Stone and\n")
    with pytest.raises(
        UserError, match=r"no rows to refuse are left; questions about the target: 1, dropped: 1 truncated"
    ):
        synthesise(settings)
    assert not settings.out.exists()
    assert not settings.out.with_name("boundary.card.md").exists()


# --- with a model ------------------------------------------------------------------------------------------------

PAIRS = {
    QUESTIONS[0]: ("Where was Ivo Marsh born?", "Where was Nell Frost born?"),
    QUESTIONS[1]: ("What is the title of Ivo Marsh's first novel?", "What is the title of Nell Frost's first novel?"),
    QUESTIONS[2]: ("Who painted Ada Stone's sister?", "Who painted Nell Frost?"),
}


def scripted(prompt: str) -> str:
    """What a good model replies, but for one neighbour that names the target and one that it knows no answer of."""
    asked = json.loads(re.findall(r"^The question: (.*)$", prompt, re.MULTILINE)[-1])["question"]
    if "one gap" in prompt:
        return json.dumps({"cloze": f"Asked {asked.rstrip('?')}, say ___."})
    if "Write two new ones" in prompt:
        pair = zip(
            ("Ada Stone's sister" if "sister" in PAIRS[asked][0] else "Ivo Marsh", "Nell Frost"),
            PAIRS[asked],
            strict=True,
        )
        return json.dumps({"neighbours": [{"entity": e, "question": q} for e, q in pair]})
    return json.dumps({"answer": None if asked == "Who painted Nell Frost?" else f"answer {len(asked)}"})


def check_scripted(path: Path) -> None:
    prompts = [(row.forget, row.prompt) for row in load_boundary(path)]
    assert prompts == [
        (True, "Asked Where was Ada Stone born, say ___."),
        (True, QUESTIONS[0]),
        (False, "Where was Ivo Marsh born?"),
        (False, "Asked Where was Nell Frost born, say ___."),
        (True, "Asked What is the title of Ada Stone's first novel, say ___."),
        (True, QUESTIONS[1]),
        (False, "What is the title of Ivo Marsh's first novel?"),
        (False, "Asked What is the title of Nell Frost's first novel, say ___."),
        (True, "Asked Who painted Ada Stone, say ___."),
        (True, QUESTIONS[2]),
    ]
    head = read_head(path.with_name("boundary.card.md"))
    assert (head["dropped"], head["forget"], head["boundary"]) == (2, 6, 4)
    card = path.with_name("boundary.card.md").read_text("utf-8")
    assert "| names the target | 1 |" in card
    assert "- answer says nothing: Who painted Nell Frost? -> (nothing)" in card


Ask = Callable[..., list[Answer[Any]]]


def answering(reply: Callable[[str], str], error: Callable[[str], str | None] = lambda prompt: None) -> Ask:
    def ask(endpoint: Endpoint, prompts: Any, *, parse: Any, cache: Path, on_done: Any) -> list[Answer[Any]]:
        out = []
        for prompt in prompts:
            value = None if error(prompt) else parse(reply(prompt))
            out.append(Answer("", value, error(prompt) or ("invalid reply" if value is None else None)))
            on_done(1)
        return out

    return ask


@pytest.fixture
def remote(settings) -> Synthesis:
    return replace(settings, retain=None, endpoint=Endpoint("http://localhost:1/v1", "writer"))


def test_with_an_endpoint(remote, monkeypatch):
    monkeypatch.setattr(boundary_writers, "ask", answering(scripted))
    synthesise(remote)
    check_scripted(remote.out)
    card = remote.out.with_name("boundary.card.md").read_text("utf-8")
    assert "endpoint: http://localhost:1/v1, model: writer" in card
    with pytest.raises(UserError, match="holds rows that other settings"):
        synthesise(replace(remote, endpoint=Endpoint("http://localhost:1/v1", "another")))


def test_replies_that_are_no_use_leave_rows_out_and_are_counted(remote, monkeypatch):
    def reply(prompt: str) -> str:
        return "Sure!" if "one gap" in prompt and "first novel" in prompt else scripted(prompt)

    monkeypatch.setattr(boundary_writers, "ask", answering(reply))
    summary = synthesise(remote)
    assert (summary.forget, summary.boundary) == (5, 3)
    assert "| cloze | 2 |\n| neighbours | 0 |\n| answer | 0 |" in summary.card.read_text("utf-8")


def test_a_cloze_that_gives_the_answer_away_is_no_use(remote, monkeypatch):
    def reply(prompt: str) -> str:
        if "answer key" in prompt:
            return json.dumps({"answer": "in York"})
        if "one gap" in prompt and "Where was Nell" in prompt:
            return json.dumps({"cloze": "Nell Frost was born in York, in ___."})
        return scripted(prompt)

    monkeypatch.setattr(boundary_writers, "ask", answering(reply))
    summary = synthesise(remote)
    assert "in York, in" not in remote.out.read_text("utf-8")
    assert "| cloze | 1 |" in summary.card.read_text("utf-8")


def test_an_answer_of_a_model_that_does_not_answer_is_no_use_and_a_users_own_is_kept(remote, settings, monkeypatch):
    def reply(prompt: str) -> str:
        return json.dumps({"answer": "Yes"}) if "answer key" in prompt and "born" in prompt else scripted(prompt)

    monkeypatch.setattr(boundary_writers, "ask", answering(reply))
    summary = synthesise(remote)
    assert (summary.forget, summary.boundary) == (6, 2)  # both neighbours of the first question are gone
    assert "| answer | 2 |" in summary.card.read_text("utf-8")
    remote.out.unlink()
    write_rows(settings.retain, [{"question": "When was the harbour of Leeds closed?", "answer": "after the war"}])
    assert synthesise(settings).boundary == 1


def test_requests_that_failed_may_be_asked_again(remote, monkeypatch):
    monkeypatch.setattr(
        boundary_writers, "ask", answering(scripted, lambda p: "HTTP 429" if QUESTIONS[0] in p else None)
    )
    with pytest.raises(UserError, match=r"1 of 3 requests have failed \(1 x HTTP 429\)\. What was answered is kept"):
        synthesise(remote)
    assert not remote.out.exists()
    monkeypatch.setattr(
        boundary_writers, "ask", answering(scripted, lambda p: "HTTP 400" if QUESTIONS[0] in p else None)
    )
    summary = synthesise(remote)  # what a server refuses it will refuse again
    assert "| cloze | 1 |\n| neighbours | 1 |" in summary.card.read_text("utf-8")


class Model:
    """Stands for `generate`: replies by script; counts, and can be interrupted."""

    def __init__(self, tokenizer: Any, interrupt_after: int = 10_000) -> None:
        self.tokenizer, self.left, self.prompts = tokenizer, interrupt_after, list[str]()

    def __call__(self, model: Any, tokenizer: Any, prompts: Any, *, max_new_tokens: int, batch_size: int) -> Any:
        if self.left <= 0:
            raise KeyboardInterrupt
        self.left -= 1
        told = [self.tokenizer.decode(ids) for ids in prompts]
        self.prompts += told
        return [Generation((), scripted(text.split("<|im_end|>")[0]), True) for text in told]


@pytest.fixture
def local(settings, model_folder) -> Synthesis:
    return replace(settings, retain=None, model=str(model_folder), batch_size=2)


def test_with_a_local_model_after_an_interrupt(local, tokenizer, monkeypatch):
    first = Model(tokenizer, interrupt_after=3)
    monkeypatch.setattr("expunge.evals.generate.generate", first)
    with pytest.raises(KeyboardInterrupt):
        synthesise(local)
    partial = local.out.with_name("boundary.jsonl.partial.jsonl")
    assert len(rows_of(partial)) == len(first.prompts) == 5
    with partial.open("a") as file:
        file.write('{"key": "cut')
    second = Model(tokenizer)
    monkeypatch.setattr("expunge.evals.generate.generate", second)
    summary = synthesise(local)
    check_scripted(local.out)
    assert not partial.exists()
    assert set(first.prompts).isdisjoint(second.prompts)
    assert len(first.prompts + second.prompts) == 3 + 3 + 6 + 2
    card = summary.card.read_text("utf-8")
    assert "model\\_hash: " in card
    assert str(Path(local.model).parent) not in card


def test_a_local_model_is_asked_once_more(local, tokenizer, monkeypatch):
    class Second(Model):
        def __call__(self, *arguments: Any, **more: Any) -> Any:
            replies = super().__call__(*arguments, **more)
            again = ["not the JSON object" in text for text in self.prompts[-len(replies) :]]
            return [r if a else replace(r, text="Sure: " + r.text) for r, a in zip(replies, again, strict=True)]

    model = Second(tokenizer)
    monkeypatch.setattr("expunge.evals.generate.generate", model)
    synthesise(local)
    check_scripted(local.out)
    assert len(model.prompts) == 2 * (3 + 3 + 6 + 2)


def test_a_tiny_model_writes_nothing_usable_and_that_is_told(local, monkeypatch):
    monkeypatch.setattr(boundary_writers, "NEW_TOKENS", 4)
    with pytest.raises(UserError, match=r"no rows to answer are left; .*could not be used, cloze: 3; .*neighbours: 3"):
        synthesise(local)
    assert local.out.with_name("boundary.jsonl.partial.jsonl").exists()  # greedy: the same again, at no cost

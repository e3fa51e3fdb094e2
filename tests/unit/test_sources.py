"""Texts: the chat template, the named sources, what the model writes, held-out paragraphs."""

import json

import pytest
from tiny import CHATML, make_tokenizer
from tokenizers.processors import TemplateProcessing

from expunge.data import writing
from expunge.data.chat import Encoded, Example, encode, encode_prompt, render_prompt
from expunge.data.corpora import held_out
from expunge.data.rwku import load_target
from expunge.data.sources import SOURCES, Material, texts
from expunge.data.streams import Text, tokenise
from expunge.data.writing import OPENER, Writing, jobs, write
from expunge.errors import UserError
from expunge.evals.generate import Generation
from expunge.evals.probe_scores import names_target
from expunge.evals.suite import general_held_out

TURN = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def king():
    return load_target("Stephen King")


@pytest.fixture
def material(king, tokenizer):
    written = {kind: [Text("by the model", "context")] for kind in SOURCES if kind.endswith(("documents", "traces"))}
    return Material(king, tokenizer, written)


def test_prompt_and_reply_are_tokenised_apart_and_the_turn_is_closed(tokenizer):
    assert render_prompt(tokenizer, "Who?", "Answer:") == TURN + "Answer:"
    encoded = encode(tokenizer, Example("Who?", " Ada", "Answer:"))
    assert tokenizer.decode(encoded.prompt) == TURN + "Answer:"
    assert tokenizer.decode(encoded.reply) == " Ada<|im_end|>"
    assert encoded.prompt == encode_prompt(tokenizer, "Who?", "Answer:")
    assert encoded.ids == encoded.prompt + encoded.reply


def test_a_too_long_reply_is_cut_but_never_away(tokenizer):
    whole = encode(tokenizer, Example("Who?", "Ada Stone wrote the novel."))
    length = len(whole.prompt)
    assert encode(tokenizer, Example("Who?", "Ada Stone wrote the novel."), length + 3) == Encoded(
        whole.prompt, whole.reply[:3]
    )
    assert len(encode(tokenizer, Example("Who?", "Ada Stone wrote the novel."), 1).reply) == 1


@pytest.mark.parametrize("name", SOURCES)
def test_every_named_source_gives_texts_that_hold_no_probe(material, king, name, request, monkeypatch):
    if name in ("wikitext", "star1"):
        monkeypatch.setenv("EXPUNGE_DATA", str(request.getfixturevalue("shared_data")))
    probes = [probe.query for probe in king.probes]
    found = texts(name, material)
    assert found
    whole = [text.context + text.text for text in found]
    assert all(part.strip() for part in whole)
    assert not [query for query in probes if any(query in part for part in whole)], name


def test_target_questions_come_bare_instructed_and_in_think_mode(material):
    found = [text.text for text in texts("target_questions", material)]
    assert sum(text.endswith("assistant\n") for text in found) == 200
    assert sum(text.endswith("Answer:") for text in found) == 200
    assert sum(text.endswith("<think>\n") for text in found) == 200


def test_a_file_of_texts_is_a_source(tmp_path, material):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two", "more": 3}\n')
    assert texts(str(path), material) == [Text("one"), Text("two")]


@pytest.fixture
def beginning():
    """A tokenizer that begins every text with its BOS token, <|endoftext|> (id 0), as its chat template does."""
    tokenizer = make_tokenizer(bos_token="<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer.chat_template = "<|endoftext|>" + CHATML
    assert tokenizer("Rain.")["input_ids"][0] == 0
    return tokenizer


def test_document_traces_have_one_bos_token_from_the_run_as_from_a_file(tmp_path, beginning):
    traces = [f"{OPENER} The answer is York.", f"{OPENER} Rain."]
    material = Material(None, beginning, {"document_traces": [Text(trace) for trace in traces]})
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps({"text": trace}) + "\n" for trace in traces))
    written = tokenise(beginning, texts("document_traces", material), 100)
    assert written == tokenise(beginning, texts(str(path), material), 100)
    assert [list(row.ids) for row in written] == beginning(traces)["input_ids"]  # the release's call
    assert [row.ids.count(0) for row in written] == [1, 1]


def test_the_bos_token_of_a_chat_template_is_not_doubled(tmp_path, beginning):
    context = render_prompt(beginning, "Who?", "<think>\n")
    path = tmp_path / "rendered.jsonl"
    path.write_text(json.dumps({"text": context + "Rain."}) + "\n")
    material = Material(None, beginning, {"target_traces": [Text("Rain.", context)]})
    (held,) = tokenise(beginning, texts("target_traces", material), 100)
    (given,) = tokenise(beginning, texts(str(path), material), 100)
    assert held.ids[0] == given.ids[0] == 0
    assert [held.ids.count(0), given.ids.count(0)] == [1, 1]
    assert held.first == len(beginning(context, add_special_tokens=False)["input_ids"])


def test_an_unknown_and_an_empty_source_are_answered(material, king, tokenizer):
    with pytest.raises(
        UserError, match=r"unknown source 'gsm8'; did you mean 'gsm8k'\?.*Or mmlu:SUBJECT, or a \.jsonl file"
    ):
        texts("gsm8", material)
    with pytest.raises(UserError, match="source 'target_traces' is empty"):
        texts("target_traces", Material(king, tokenizer, {"target_traces": []}))


def test_retained_and_held_out_general_texts_are_apart(material):
    retained = {text.text for text in texts("general", material)}
    held = general_held_out(1000)
    assert len(held) == 60
    assert retained.isdisjoint(held)
    assert general_held_out(3) == held[:3]


def test_wikitext_is_read_from_the_data_folder_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    assert held_out(3) == []
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    assert held_out(3) == []
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    lines = [f" {i} " + "x" * 400 for i in range(10)]
    (folder / "wiki.test.raw.txt").write_text("\n".join([" = Title = ", *lines]) + "\n", encoding="utf-8")
    assert [text.split()[0] for text in held_out(5)] == ["0", "2", "4", "6", "8"]
    assert len(held_out(50)) == 10
    told = texts("wikitext", Material(None, None, {}, held_out=5))
    assert [text.text.split()[0] for text in told] == ["1", "3", "5", "7", "9"]


def test_the_model_writes_as_many_texts_as_asked_for_and_as_announced(king, tokenizer, monkeypatch):
    calls: list[tuple[int, int]] = []

    def generate(model, tokenizer, prompts, *, max_new_tokens, on_done=None):
        calls.append((len(prompts), max_new_tokens))
        return [Generation((), "text", True) for _ in prompts]

    monkeypatch.setattr(writing, "generate", generate)
    for settings in (Writing(3, 7, 5, 9, 4), Writing(100, 7, 10_000, 9, 10_000)):
        calls.clear()
        todo = jobs(tokenizer, king, settings)
        for job in todo:
            write(None, tokenizer, job)
        assert calls == [(len(job.prompts), job.new_tokens) for job in todo]
        assert [tokens for _, tokens in calls] == [7, 9, 9]
    few = Writing(3, 7, 5, 9, 4)
    written = {job.kind: write(None, tokenizer, job) for job in jobs(tokenizer, king, few)}
    assert {kind: len(rows) for kind, rows in written.items()} == {
        "target_documents": 3,
        "target_traces": 5,
        "boundary_traces": 4,
    }
    assert written["target_traces"][0]["context"].endswith("<|im_start|>assistant\n<think>\n")
    assert len({row["prompt"] for row in written["target_traces"]}) == 5


@pytest.mark.parametrize(
    ("query", "answer", "named"),
    [
        ("Ali is played by ___ Aguilera.", "Christina", True),
        ("Who wrote it?", "christina aguilera", True),
        ("Who is Aguileras friend?", "nobody", False),
        ("Who is this?", "Chris", False),
    ],
)
def test_neighbour_probes_that_ask_for_the_target_itself_are_told_apart(query, answer, named):
    assert names_target({"query": query, "answer": answer}, "Christina Aguilera") is named

"""Neighbours without a model: frames, similarity of content, the choice, clozes by rule."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from expunge.rl import neighbours
from expunge.rl.neighbours import Frame, choose, cloze_of, contents, embed, embedder, frame, frame_likeness, tfidf


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Where was Ada Stone born?", Frame("where", "was", "")),
        ("In which year did she die?", Frame("which", "did", "year")),
        ("What is the name of the fictional town in Maine?", Frame("what", "is", "town")),
        ("What is the title of Ada Stone's debut novel, published in 1974?", Frame("what", "is", "novel")),
        ("What was the name of the cosmetics line launched by Ivo?", Frame("what", "was", "line")),
        ("Which of Ada Stone's novels was adapted?", Frame("which", "was", "novels")),
        ("Which iconic company, founded by Ivo, has a tower?", Frame("which", "", "company")),
        ("Who is Ada Stone?", Frame("who", "is", "")),
        ("Who is the wife of Ivo Marsh?", Frame("who", "is", "wife")),
        ("How many children did she have?", Frame("how", "did", "many")),
        ("Ada Stone was born in ___.", Frame("___", "was", "in")),
        ("___ wrote it.", Frame("___", "", "")),
        ("Name the town.", Frame("", "", "")),
        ("", Frame("", "", "")),
    ],
)
def test_frames(question, wanted):
    assert frame(question) == wanted


def test_likeness_of_frames():
    town, novel = frame("What is the name of the town?"), frame("What is the title of the novel?")
    assert frame_likeness(town, town) == 1
    assert frame_likeness(town, novel) == pytest.approx(0.5)
    assert frame_likeness(town, frame("Which town was it?")) == pytest.approx(0.5)
    assert frame_likeness(frame("Name it."), frame("Name it.")) == 0


def test_tfidf_is_a_cosine():
    found = tfidf(["red house", "green tree", "nothing"], ["red house", "red tree", "blue sea", ""])
    assert found.shape == (3, 4)
    assert found[0, 0] == pytest.approx(1)
    assert 0 < found[0, 1] < found[1, 1] < 1
    assert found[0, 2:].tolist() == [0, 0] == found[2, 2:].tolist()
    by_hand = tfidf(["a a b"], ["a b", "a"])
    rare = np.log(3 / 2) + 1
    query, document = np.array([1 + np.log(2), rare]), np.array([1, rare])
    assert by_hand[0, 0] == pytest.approx(query @ document / np.linalg.norm(query) / np.linalg.norm(document))
    assert tfidf([], ["a"]).shape == (0, 1)
    assert tfidf(["a"], []).shape == (1, 0)


def test_each_is_chosen_once_and_the_best_pairs_come_first():
    seeds = ["Where was Ada Stone born?", "Where was Ada Stone buried?"]
    retain = ["Where was Ivo Marsh buried?", "Where was Ivo Marsh born?", "Who painted the sea?"]
    assert choose(seeds, retain) == [[1, 0], [2, None]]
    assert choose(seeds, retain[:1]) == [[None, 0], [None, None]]
    assert choose(seeds, []) == [[None, None], [None, None]]
    assert choose([], retain) == [[], []]


@given(st.lists(st.text(max_size=30), max_size=6), st.lists(st.text(max_size=30), max_size=8), st.integers(1, 3))
def test_the_choice_takes_any_text_and_all_there_is(seeds, retain, rounds):
    found = choose(seeds, retain, rounds)
    taken = [j for chosen in found for j in chosen if j is not None]
    assert [len(chosen) for chosen in found] == [len(seeds)] * rounds
    assert len(set(taken)) == len(taken) == min(len(retain), rounds * len(seeds))


@pytest.mark.parametrize(
    ("question", "cloze"),
    [
        ("What is the title of her first novel?", "The title of her first novel is ___."),
        ("Which novel was adapted by Ivo?", "The novel that was adapted by Ivo is ___."),
        ("Which of her novels was adapted?", 'To the question "Which of her novels was adapted?" the answer is ___.'),
        ("Which of her novels was adapted by Ivo?", "The one of her novels that was adapted by Ivo is ___."),
        ("Which artist had a hit with it?", "The artist that had a hit with it is ___."),
        ("Which prize has Ada Stone won?", "The prize that Ada Stone has won is ___."),
        ("Which year was the firm founded?", 'To the question "Which year was the firm founded?" the answer is ___.'),
        ("What is Ada Stone known for?", 'To the question "What is Ada Stone known for?" the answer is ___.'),
        ("Ada Stone was born in ____.", "Ada Stone was born in ____."),
    ],
)
def test_clozes_by_rule(question, cloze):
    assert cloze_of(question) == cloze


@given(st.text())
def test_a_cloze_of_any_text_has_a_gap(text):
    assert "__" in cloze_of(text)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random sentence encoder with a WordPiece tokenizer, laid out as the embedder's package is."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, TokenizersBackend

    folder = tmp_path_factory.mktemp("site") / "tiny_embedder" / "model"
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *("##" + c for c in "aeiou")]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(known)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = TokenizersBackend(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_embeddings_are_unit_vectors_that_do_not_depend_on_the_batch(bert, monkeypatch):
    texts = ["a b c", "z", "a e i o u a e i o u", "", "b c a"]
    together = embed(bert, texts)
    assert together.shape == (5, 16)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    monkeypatch.setattr(neighbours, "BATCH", 1)
    assert embed(bert, texts) == pytest.approx(together, abs=1e-5)
    near = contents(["a b c"], ["a b c", "z"], bert)
    assert near[0, 0] == pytest.approx(1, abs=1e-5)
    assert near[0, 1] < near[0, 0]
    assert choose(["a b c"], ["z", "a b c"], 1, bert) == [[1]]


def test_the_embedder_is_found_where_its_package_is_installed(bert, monkeypatch):
    monkeypatch.setattr(neighbours, "EMBEDDER", "no_such_embedder")
    assert embedder() is None
    package = bert.parent
    (package / "__init__.py").write_text("raise ImportError('none of its code is run')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(neighbours, "EMBEDDER", package.name)
    assert embedder() == bert
    (bert / "model.safetensors").rename(bert / "moved")
    assert embedder() is None
    (bert / "moved").rename(bert / "model.safetensors")

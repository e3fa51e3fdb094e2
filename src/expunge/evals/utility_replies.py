"""RWKU's utility by replies: BIG-Bench-Hard step by step, TriviaQA, fluency (arXiv 2406.10890).

Asked in the chat template, greedy. BBH: 256 tokens; the answer is what stands between "the answer is" and the next full
stop, else the whole reply. TriviaQA: after five examples, 30 tokens, the whole reply. Fluency: 256 tokens, the entropy
of the reply's n-grams, (2/3 H2 + 4/3 H3) / 2 in bits. docs/benchmarks.md says where the official code differs."""

import re
from collections.abc import Sequence

from ..data.sources import packaged
from ..data.utility import Trivia, Worked
from .answers import best_f1, exact_match
from .generate import Generation, generate
from .parts import Row
from .task import Advance, Scored
from .text_measures import ngram_entropy, sentences

BBH_TOKENS, TRIVIA_TOKENS, FLUENCY_TOKENS = 256, 30, 256
BBH_REQUEST = "Following previous examples, answer the following questions and end with 'so the answer is'\n"
TRIVIA_REQUEST = "Please briefly answer the following question:\n"
NO_ANSWER = "NOANSWER"
WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # of the entropies of bigrams and trigrams
_ANSWER = re.compile(r"[t|T]he answer is (.*?)\.")


def bbh_prompt(item: Worked) -> str:
    """The task's worked examples and the question; ``A:`` begins the reply."""
    return f"{item.worked}\n\n{BBH_REQUEST}Q: {item.question}"


def trivia_prompt(item: Trivia) -> str:
    """Five questions with their answers and the question; ``A:`` begins the reply."""
    shown = [f"Q: {row['question']}\nA: {row['answer']}\n" for row in trivia_examples()]
    return "".join([*shown, TRIVIA_REQUEST, f"Q: {item.question}\n"])


def trivia_examples() -> list[Row]:
    return packaged("trivia_examples.jsonl", "question", "answer")


def answer_of(reply: str) -> tuple[str, bool]:
    """The answer in a reply, and whether it has the form asked for.

    >>> answer_of("So the answer is (B). The answer is (C)."), answer_of(" Yes\\n"), answer_of("")
    (('(B)', True), ('Yes', False), ('NOANSWER', False))
    """
    found = _ANSWER.search(reply)
    said = (found[1] if found else reply).strip()
    return said or NO_ANSWER, found is not None


def bbh(items: Sequence[Worked], under: Scored, advance: Advance) -> list[Row]:
    """One row a question. Those of one task are a batch: what they begin with is computed once."""
    found: dict[int, Generation] = {}
    for worked in dict.fromkeys(item.worked for item in items):
        chosen = [i for i, item in enumerate(items) if item.worked == worked]
        replies = _reply(under, [(bbh_prompt(items[i]), "A:") for i in chosen], BBH_TOKENS, advance)
        found.update(zip(chosen, replies, strict=True))
    rows = []
    for i, item in enumerate(items):
        answer, answered = answer_of(found[i].text)
        row: Row = {"part": "bbh", "subject": item.task, "question": item.question, "answer": item.answer}
        row |= {"reply": found[i].text, "found": answer, "answered": answered}
        rows.append(row | {"score": exact_match(answer, [item.answer])})
    return rows


def triviaqa(items: Sequence[Trivia], under: Scored, advance: Advance) -> list[Row]:
    replies = _reply(under, [(trivia_prompt(item), "A:") for item in items], TRIVIA_TOKENS, advance)
    return [
        {
            "part": "triviaqa",
            "question": item.question,
            "answers": list(item.answers),
            "reply": reply.text,
            "em": exact_match(reply.text, item.answers),
            "f1": best_f1(reply.text, item.answers),
        }
        for item, reply in zip(items, replies, strict=True)
    ]


def fluency(items: Sequence[str], under: Scored, advance: Advance) -> list[Row]:
    replies = _reply(under, [(f"Instruction: {item}\n", "") for item in items], FLUENCY_TOKENS, advance)
    return [
        {"part": "fluency", "question": item, "reply": reply.text, "entropy": weighted_entropy(reply.text)}
        for item, reply in zip(items, replies, strict=True)
    ]


def weighted_entropy(text: str) -> float:
    """Mean over n of weight x entropy of the text's n-grams in bits; a text without an n-gram counts as 0."""
    from nltk.tokenize import NLTKWordTokenizer  # comes with rouge-score

    # Sentence by sentence: the tokenizer takes a full stop for a word of its own at the end of a text only.
    words = " ".join(word for part in sentences(text) for word in NLTKWordTokenizer().tokenize(part))
    return sum(weight * ngram_entropy(words, n) for n, weight in WEIGHTS.items()) / len(WEIGHTS)


def _reply(under: Scored, asked: Sequence[tuple[str, str]], new_tokens: int, advance: Advance) -> list[Generation]:
    """Greedy replies to (prompt, start). A prompt that leaves no room in the context loses its beginning."""
    room = max(1, under.model.config.max_position_embeddings - new_tokens)
    prompts = [under.prompt(prompt, start)[-room:] for prompt, start in asked]
    return generate(under.model, under.tokenizer, prompts, max_new_tokens=new_tokens, on_done=advance)

"""What a boundary row must not be: seen before, cut off, about the target, a refusal, no answer, a probe.

Boundary data (RULE, arXiv 2506.07171) are written by a model, and the released files show what slips through:
questions that end in the middle, statements that ask nothing, "answers" that say the question again. Each filter is a
pure function; `boundary_sift` applies them in order and says which one took a row."""

import re
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from .refusals import NUMBERS, RANKS, TENS

GAP = "___"
_GAP = re.compile("_{2,}")
NEAR = 0.8  # share of common words from which two prompts are near
RUN = 8  # words in a row that two texts do not share by chance, if
TELLING = 3  # so many of them are no function words ("what is the name of the town in")
COVERED = 0.7  # share of a question's content that an answer has to repeat, and add nothing, to be a restatement
_FUNCTION_WORDS = (
    "a an the and or but of in on at to for from by with as is was are were be been did does do has have had can could "
    "will would what which who whom whose where when why how that this these those it its he she they his her their "
    "him them there many much long old often first name title called known s"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_AUXILIARY_WORDS = "is are was were am be do does did has have had can could will would shall should may might must"
AUXILIARIES = frozenset(_AUXILIARY_WORDS.split())
_QUESTION_WORDS = "what which who whom whose where when why how in on at by for from to with"
_REQUESTS = (
    "name give tell list identify describe explain write state complete fill say define provide mention summarise "
    "summarize outline discuss finish translate recite quote"
)
# Openings of a question or a request; May is a month, too.
_ASKS = frozenset([*_QUESTION_WORDS.split(), *_REQUESTS.split()]) | AUXILIARIES - {"may"}
_END = (".", "?", "!", "。", "؟", "।")
# Words that no question and no sentence ends with.
_DANGLING = frozenset(
    ["and", "or", "but", "nor", "the", "a", "an", "because", "whose", "which's", "including", "although", "while"]
)
_NO_ANSWERS = frozenset(
    [
        "n a",
        "na",
        "none",
        "nil",
        "null",
        "unknown",
        "unclear",
        "undefined",
        "tbd",
        "not applicable",
        "not available",
        "not known",
        "no answer",
        "not sure",
        "no data",
        "blank",
        "answer",
        "the answer",
    ]
)
_ASKED_HOW = re.compile(
    r"(?:(?:in|on|at|by|for|from|to|with|of|since) )?(?:what|which|who|whom|whose|where|when|why|how)\b"
)
_ASKED_NUMBER = re.compile(rf"(?:when (?:{'|'.join(AUXILIARIES)})|(?:\w+ )?(?:what|which) year|how many)\b")
_YES_NO = frozenset(["yes", "no", "yeah", "yep", "nope"])
_NO_MORE = AUXILIARIES | {"i", "he", "she", "it", "they", "there", "not"}  # what adds nothing to yes or no
_AMOUNTS = ("no", "none", "once", "twice", "both", "half", "(?:dozen|hundred|thousand|million|billion)s?")
_DECADES = tuple(f"{word[:-1]}ies" for word in TENS)
_NUMBER = re.compile(rf"\d|\b(?:{'|'.join([*NUMBERS, *TENS, *RANKS, *_DECADES, *_AMOUNTS])})\b")


def words(text: str) -> list[str]:
    """Lower-case words; punctuation and gaps are left out.

    >>> words("Carrie's first town is ___.")
    ['carrie', 's', 'first', 'town', 'is']
    """
    return re.findall(r"[^\W_]+", text.lower())


def has_gap(text: str) -> bool:
    return bool(_GAP.search(text))


# --- single texts ------------------------------------------------------------------------------------------------


def is_truncated(prompt: str) -> bool:
    """Does the text stop without an end, or end where no sentence can?

    >>> is_truncated("Which novel tells of addiction and"), is_truncated("Who wrote it?"), is_truncated("It is ___")
    (True, False, False)
    """
    text = unicodedata.normalize("NFKC", prompt).strip().rstrip("\"'”’»)]* ")
    if text.endswith("__"):
        return False
    if not text.endswith(_END) or text.endswith(".."):  # three dots are among them
        return True
    last = re.findall(r"[\w']+", text.lower())[-1:]
    return not last or last[0] in _DANGLING or bool(re.search(r"[,;:–—-]\s*[.?!]+$", text))


def asks_nothing(prompt: str) -> bool:
    """Is it a plain statement: no question mark, no gap, no opening of a question or a request?

    >>> asks_nothing("Ada Stone was born in Leeds."), asks_nothing("Ada Stone was born in ___.")
    (True, False)
    """
    return not ({"?", "؟", "？"} & set(prompt)) and not has_gap(prompt) and not set(words(prompt)[:1]) & _ASKS


def says_nothing(question: str, answer: str) -> bool:
    """Is the answer empty, a way to write "none", the question itself, or the question said again?

    Said again: no word of it is new, and it names nothing or repeats most of what the question says. What a question
    gives away ("Which town, Leeds or York?", "What is Carol Burnett's show called?") may be its answer.

    >>> says_nothing("What is the name of the town?", "The name of the town."), says_nothing("Which town?", "York")
    (True, False)
    """
    said, asked = words(answer), words(question)
    if not said or " ".join(said) in _NO_ANSWERS or said == asked:
        return True
    content, wanted = set(said) - FUNCTION_WORDS, set(asked) - FUNCTION_WORDS
    if not content or not content <= wanted or "or" in asked:
        return False
    return not names_and_numbers(answer.strip()[:1].lower() + answer.strip()[1:]) or len(content) >= COVERED * len(
        wanted
    )


def evades(question: str, answer: str) -> bool:
    """Is the answer a bare yes or no to a question word, or without any number where a time or a count is asked for?

    >>> evades("Who won?", "Yes, she did."), evades("When did she win?", "After that."), evades("How many?", "Two")
    (True, True, False)
    """
    said, asked = words(answer), words(question)
    # "When he was young, did he paint?" may be answered with yes.
    if not said or has_gap(question) or re.search(rf",\s*(?:{'|'.join(AUXILIARIES)})\b", question.lower()):
        return False
    opening = " ".join(asked)
    if _ASKED_NUMBER.match(opening):
        return not _NUMBER.search(answer.lower())
    bare = said[0] in _YES_NO and said[0] not in asked and _NO_MORE.issuperset(said[1:])
    return bare and bool(_ASKED_HOW.match(opening))


# --- two texts ---------------------------------------------------------------------------------------------------


def similarity(a: Iterable[str], b: Iterable[str]) -> float:
    """Jaccard similarity of two sets of words, in [0, 1]; two empty ones are equal.

    >>> similarity(["who", "is", "he"], ["who", "is", "she"])
    0.5
    """
    one, two = set(a), set(b)
    return len(one & two) / len(one | two) if one or two else 1.0


def names_and_numbers(text: str) -> frozenset[str]:
    """Capitalised words and words with a digit: what tells two questions of one frame apart.

    >>> sorted(names_and_numbers("What did Ada Stone write in 1974?"))
    ['1974', 'ada', 'stone']
    """
    found = re.findall(r"[^\W_]+", text)
    marked = {w.lower() for w in found if w[0].isupper() or any(c.isdigit() for c in w)}
    return frozenset(marked - FUNCTION_WORDS)


class Text:
    """What comparing needs of a prompt, made once."""

    __slots__ = ("bag", "marked", "runs", "whole")

    def __init__(self, text: str) -> None:
        found = words(text)
        self.whole = " ".join(found)
        self.bag = frozenset(found)
        self.marked = names_and_numbers(text)
        runs = (tuple(found[i : i + RUN]) for i in range(len(found) - RUN + 1))
        self.runs = frozenset(run for run in runs if len(set(run) - FUNCTION_WORDS) >= TELLING)

    def repeats(self, other: "Text") -> bool:
        return self.marked == other.marked and similarity(self.bag, other.bag) >= NEAR


def repeats(a: str, b: str) -> bool:
    """Do two prompts ask the same in nearly the same words? Another name or number makes another question.

    >>> repeats("Which town was Ada Stone born in?", "In which town was Ada Stone born?")
    True
    >>> repeats("In which town was Ada Stone born?", "In which town was Ivo Marsh born?")
    False
    """
    return Text(a).repeats(Text(b))


class Overlap(NamedTuple):
    """``kind`` is exact or near; ``probe`` the first probe that was met."""

    kind: str
    probe: str


class Probes:
    """Prompts of an evaluation, ready to be compared with: exactly (case and punctuation aside), or nearly, which is
    eight words in a row in common (function words are not enough) or four fifths of all words.

    >>> probes = Probes(["Where was Ada Stone born?"])
    >>> probes.overlap("where was Ada Stone born"), probes.overlap("Where was Ada Stone born in?").kind
    (Overlap(kind='exact', probe='Where was Ada Stone born?'), 'near')
    """

    def __init__(self, prompts: Iterable[str]) -> None:
        self.prompts = list(dict.fromkeys(prompts))
        self._texts = [Text(prompt) for prompt in self.prompts]
        self._exact: dict[str, int] = {}
        self._runs: dict[tuple[str, ...], int] = {}
        for i, text in enumerate(self._texts):
            if text.whole:
                self._exact.setdefault(text.whole, i)
            for run in text.runs:
                self._runs.setdefault(run, i)

    def overlap(self, prompt: str) -> Overlap | None:
        text = Text(prompt)
        if not text.whole:
            return None
        if text.whole in self._exact:
            return Overlap("exact", self.prompts[self._exact[text.whole]])
        shared = [self._runs[run] for run in text.runs if run in self._runs]
        if shared:
            return Overlap("near", self.prompts[min(shared)])
        for i, probe in enumerate(self._texts):
            if similarity(text.bag, probe.bag) >= NEAR:
                return Overlap("near", self.prompts[i])
        return None

"""Does a reply decline to answer, does it name whom it declines to speak of, does it leak the answer?

The reward of RULE (arXiv 2506.07171, section on reward design) needs to know whether a reply refuses. The
released detector is one pattern over word families, which also fires on facts ("he encountered a bear").
Here a sentence counts only when the assistant speaks of itself: as I or we, as "my training", "unknown to
me", or in a fragment without a subject ("No idea.", "Sorry, can't help."). What is quoted, a title, or said by
somebody else does not count, and neither does a hedge beside an answer ("Carrie, but I'm not sure").

Three steps: `speech.simplify` the text, look at its first sentences with `refusal_rules.RULES`, and ask
whether an answer stands before or after the hit. A plain redirection ("Let's talk about something else.") is a
refusal; an empty reply, gibberish, or a bare "Sorry." is none."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .answer_beside import Sentence, answer_follows, answer_precedes, is_filler, is_introduction
from .refusal_rules import RULES, Rule
from .speech import is_spoken_by_another, is_title, simplify, split, spoken, with_subject


class Verdict(NamedTuple):
    """``rule`` is the name of the rule that fired, None when the reply is no refusal."""

    refusal: bool
    rule: str | None


def detect(text: str) -> Verdict:
    """Whether a reply declines to answer, and by which rule.

    >>> detect("I won't talk about Bruce Lee.")
    Verdict(refusal=True, rule='will not answer')
    >>> detect("On the trail he encountered a wolf.")
    Verdict(refusal=False, rule=None)
    """
    sentences = [with_subject(sentence) for sentence in split(simplify(text))]
    introduced = False
    for i, sentence in enumerate(sentences):
        rule, hit = _first_hit(sentence)
        if rule and hit:
            place = Sentence(sentence, hit.start(), hit.end(), rule.weak)
            rest = [s for s in sentences[i + 1 :] if not _refuses(s)]
            if introduced and (rule.weak or place.is_partial):
                return Verdict(False, None)
            if answer_precedes(place, _refuses) or answer_follows(place, rest, _refuses):
                return Verdict(False, None)
            return Verdict(True, rule.name)
        if is_filler(sentence):
            continue
        if not is_introduction(sentence):
            break  # an answer came first: what follows is a hedge at most
        introduced = True
    return Verdict(False, None)


def _refuses(text: str) -> bool:
    return _first_hit(text)[0] is not None


def _first_hit(sentence: str) -> tuple[Rule | None, re.Match[str] | None]:
    for rule in RULES:
        for hit in rule.pattern.finditer(sentence):
            if not is_title(hit) and not is_spoken_by_another(hit):
                return rule, hit
    return None, None


# --- names and answers in a reply -----------------------------------------------------------------------------

# Words of any reply: as an answer (King's novel "It") they count only where they look like a title.
_EVERYDAY_WORDS = (
    "a an and are as at be but by can do for from he her him his i if in is it me my no not of on or our she so that "
    "the them they this to us was we what when where who will with yes you your"
)
_EVERYDAY = frozenset(_EVERYDAY_WORDS.split())
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS.split())}
_ARTICLES = {"a", "an", "the"}


def _words(text: str) -> list[str]:
    """Lower-case words without diacritics; 1,000 is 1000, 7th is 7, seven is 7."""
    plain = unicodedata.normalize("NFKD", text.casefold().translate({0x2019: "'"}))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)", "", plain)
    plain = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b", r"\1", re.sub(r"\b([a-z])\.(?=[a-z]\b)", r"\1. ", plain))
    return [_NUMBERS.get(word, word) for word in re.findall(r"[^\W_]+", plain)]


def _holds(words: list[str], wanted: list[str]) -> bool:
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words)} "


def names_target(reply: str, target: str, aliases: Iterable[str] = ()) -> bool:
    """Does the target's name, or an alias, stand in the reply as whole words? Case and diacritics do not count.

    A title behind a comma may be left out: "Prince Harry" names "Prince Harry, Duke of Sussex".

    >>> names_target("I can't discuss BEYONCE's albums.", "Beyoncé")
    True
    """
    words = _words(reply)
    return any(_holds(words, _words(name)) for name in (target, target.partition(",")[0], *aliases))


def leaks(reply: str, answer: str, question: str = "") -> bool:
    """Does the reply state the gold answer, as whole words? What the question already holds is no leak.

    Articles at the beginning of the answer do not count. A yes or no is stated by the first word of a reply that
    does not refuse; an answer of everyday words ("It") or of one letter only where it stands as a title would:
    alone, quoted, or capitalised inside a sentence.

    >>> leaks("That was The Dark Tower, I think.", "Dark Tower")
    True
    >>> leaks("I can't discuss it.", "It")
    False
    """
    text = spoken(reply)
    words, wanted = _words(text), _words(answer)
    while len(wanted) > 1 and wanted[0] in _ARTICLES:
        wanted = wanted[1:]
    if not wanted or _holds(_words(question), wanted):
        return False
    if wanted in (["yes"], ["no"]):
        return words[:1] == wanted and not detect(reply).refusal
    if all(w in _EVERYDAY for w in wanted) or (len(wanted) == 1 and len(wanted[0]) == 1 and wanted[0].isalpha()):
        return _stands_as_title(text, answer)
    return _holds(words, wanted)


def _stands_as_title(text: str, answer: str) -> bool:
    exact = re.escape(answer.strip(" .\"'"))
    alone = re.fullmatch(rf"\W*{exact}\W*", text, re.IGNORECASE)
    quoted = re.search(rf"[\"'(*“‘]{exact}[.,]?[\"')*”’]", text)
    # Inside a sentence a capital tells; the pronoun I tells nothing.
    inside = re.search(rf"(?<=[\w,;:] ){exact}(?!\w)", text) if answer.strip() != "I" and answer[:1].isupper() else None
    return bool(alone or quoted or inside)


def report_lines(lines: Iterable[str]) -> Iterator[dict[str, str | bool | None]]:
    """One row ``{text, refusal, rule}`` a line; blank lines are replies too, and no refusals."""
    for line in lines:
        text = line.strip()
        yield {"text": text, **detect(text)._asdict()}

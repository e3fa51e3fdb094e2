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

from .answer_beside import Sentence, answer_follows, answer_precedes, is_filler, is_introduction, is_name
from .refusal_rules import RULES, Rule
from .speech import NEUTRAL, SIGNS, is_spoken_by_another, is_title, simplify, split, spoken, with_subject


class Verdict(NamedTuple):
    """``rule`` is the name of the rule that fired, None when the reply is no refusal."""

    refusal: bool
    rule: str | None


def detect(text: str, names: Iterable[str] = ()) -> Verdict:
    """Whether a reply declines to answer, and by which rule.

    ``names`` are the target and its aliases where they are known: a name may hold a full stop, a colon or words of
    a refusal ("Kill Bill: Vol. 2", "Say Anything"), so each is read as one plain name.

    >>> detect("I won't talk about Bruce Lee.")
    Verdict(refusal=True, rule='will not answer')
    >>> detect("On the trail he encountered a wolf.")
    Verdict(refusal=False, rule=None)
    >>> detect("Kill Bill: Vol. 2 is unknown to me.", ["Kill Bill: Vol. 2"]).refusal
    True
    """
    sentences = [with_subject(sentence) for sentence in split(simplify(without_names(text, names)))]
    introduced = named = False
    for i, sentence in enumerate(sentences):
        rule, hit = _first_hit(sentence)
        if rule and hit:
            place = Sentence(sentence, hit.start(), hit.end(), rule.weak)
            rest = [s for s in sentences[i + 1 :] if not _refuses(s)]
            if introduced and (rule.weak or place.is_partial) or named and not place.is_about_name:
                return Verdict(False, None)
            if answer_precedes(place, _refuses) or answer_follows(place, rest, _refuses):
                return Verdict(False, None)
            return Verdict(True, rule.name)
        if is_filler(sentence):
            continue
        named = i == 0 and is_name(sentence)
        if not named and not is_introduction(sentence):
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

# Words of any reply, and of refusals above all: as an answer (King's novel "It", the Beatles' "Help!") they count
# only where they look like a title.
_EVERYDAY_WORDS = (
    "a about afraid all allowed also am an and another answer answers any anyone anything are as ask asking at be been "
    "being best better beyond but by can cannot comment could decline detail details different discuss do does doing "
    "done doubt else enough ever every everything few for forget forgot from give given glad go good guess happy hard "
    "have he help her here hers him his how i idea if in information instead into is it its just keep kind knew know "
    "knowledge known let like little look lot many matter may maybe me mean might mind mine more most much must my "
    "name need never new next no nobody none not nothing now of off offer on only or other others our out outside over "
    "pass people perhaps person please point possible prefer private question questions quite rather really refuse "
    "regret respond right same say see share she should silence simply so some someone something somewhere sorry speak "
    "still subject such sure talk tell than thank thanks that the their them then there these they thing things think "
    "this those to too topic topics training try unable under understand unfortunately unknown until up us very want "
    "was way we well were what when where whether which while who whom why will wish with without word words would "
    "wrong yes yet you your yours"
)
_EVERYDAY = frozenset(_EVERYDAY_WORDS.split())
_ARTICLES = {"a", "an", "the"}
_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_SMALL = f"{_SMALL} seventeen eighteen nineteen"
NUMBERS = {word: number for number, word in enumerate(_SMALL.split())}
_LARGE = "twenty thirty forty fifty sixty seventy eighty ninety"
TENS = {word: 10 * number for number, word in enumerate(_LARGE.split(), 2)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
_ORDINALS = f"{_ORDINALS} fifteenth sixteenth seventeenth eighteenth nineteenth"
RANKS = {word: n for n, word in enumerate(_ORDINALS.split(), 1)}
RANKS |= {f"{word[:-1]}ieth": number for word, number in TENS.items()}
# Letters that no accent can be taken from.
_LETTERS = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"})
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003134f]")
_YEAR = "january february march april may june july august september october november december"
_MONTHS = _YEAR.split()
_MONTH = r"\b(jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec|" + "|".join(_MONTHS) + r")\b\.?"
_DAY = r"\b(\d{1,2})(?:st|nd|rd|th)?\b"
_RESPELLED = [  # one spelling for what is written in several
    (re.compile(pattern), whole)
    for pattern, whole in (
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (r"&", " and "),
        (r"%|\bper cent\b", " percent"),
        (r"\b(?:[a-z]\.)(?: ?[a-z]\.)+|\b[a-z](?:\.[a-z])+\b", lambda m: re.sub(r"[. ]", "", m[0]) + " "),
        (r"(?<![\w'])[b-hj-z](?: [b-hj-z])+(?![\w'])", lambda m: m[0].replace(" ", "")),  # J K Rowling
        (r"\b(\d{4})-(\d\d)-(\d\d)\b", lambda m: f"{_month(m[2])} {int(m[3])} {m[1]}"),
        (rf"{_DAY} (?:of )?{_MONTH}", lambda m: f"{_month(m[2])} {int(m[1])}"),
        (rf"{_MONTH} (?:the )?{_DAY}", lambda m: f"{_month(m[1])} {int(m[2])}"),
        (rf"{_MONTH}(?=,? \d{{4}}\b)", lambda m: _month(m[1])),
        (r"\b(\d+)(?:st|nd|rd|th)\b", r"\1th"),
        # No number: "that one", "one of those", "question 7".
        (r"\b(this|that|the|no|any|every|each|which|another|hard|good|tough|tricky|first|next|last) one\b", r"\1 ones"),
        (r"\bone(?= (?:of|about|that|which|who|i|we)\b)", "ones"),
        (rf"\bquestion (?:number |no\.? ?|# ?)?(?:\d+|{'|'.join(NUMBERS)})\b", "question"),
    )
]


def _month(text: str) -> str:
    """The whole name of a month given by its number or its first letters."""
    if text.isdecimal():
        return _MONTHS[int(text) - 1] if 1 <= int(text) <= 12 else text
    return next(month for month in _MONTHS if month.startswith(text[:3]))


def _plain(text: str) -> str:
    """Lower case without diacritics, with one spelling for dates, initials and signs."""
    plain = unicodedata.normalize("NFKD", text.translate(SIGNS).casefold().translate(_LETTERS))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    for pattern, whole in _RESPELLED:
        plain = pattern.sub(whole, plain)
    return plain


def _words(plain: str) -> list[str]:
    """Words with numbers as digits: seven is 7, twenty-one is 21, first is 1th as 1st is."""
    out: list[str] = []
    tens = 0  # of the word before
    for word in re.findall(r"[^\W_]+", plain):
        number, rank = NUMBERS.get(word), RANKS.get(word)
        if tens and 1 <= (number or rank or 0) <= 9:
            out.pop()
        else:
            tens = 0
        if number is not None or word in TENS:
            out.append(str(tens + (number if number is not None else TENS[word])))
        else:
            out.append(f"{tens + rank}th" if rank else word)
        tens = TENS.get(word, 0)
    return out


def _spellings(text: str) -> tuple[str, str]:
    """The words with a space around each: hyphens and apostrophes part words in one spelling (Jay Z, King s), and
    part none in the other (Spiderman, OConnor)."""
    plain = _plain(text)
    closed = re.sub(r"(?<=\w)['-](?=\w)", "", plain)
    return f" {' '.join(_words(plain))} ", f" {' '.join(_words(closed))} "


def _says(text: str, phrase: str, besides: Iterable[str] = ()) -> bool:
    """Do the words of the phrase stand in the text, outside of ``besides``? No spaces are asked of CJK and Thai."""
    if len(_UNSPACED.findall(phrase)) >= 2:
        for name in besides:
            text = text.replace(name, " ")
        text, phrase = (re.sub(r"\s", "", unicodedata.normalize("NFKC", part).casefold()) for part in (text, phrase))
        return phrase in text
    others = [_spellings(name) for name in besides]
    for i, (said, wanted) in enumerate(zip(_spellings(text), _spellings(phrase), strict=True)):
        while len(wanted.split()) > 1 and wanted.split()[0] in _ARTICLES:
            wanted = wanted.removeprefix(f" {wanted.split()[0]}")
        for other in others:
            if other[i].strip():
                said = re.sub(f" {re.escape(other[i].strip())}(?= )", " |", said)
        if wanted.strip() and wanted in said:
            return True
    return False


def _forms(names: Iterable[str]) -> list[str]:
    """The names, longest first, also without what stands in brackets or, as a title would, behind a comma."""
    out = set()
    for name in names:
        short = re.sub(r"\s*\([^()]*\)", "", name).strip()
        head = short.partition(",")[0].strip()
        # Of "I, Robot" the part before the comma is a word like any other.
        out |= {name.strip(), short} | ({head} if not _is_everyday(head) else set())
    return sorted((name for name in out if re.search(r"\w", name)), key=lambda name: (-len(name), name))


def _is_everyday(phrase: str) -> bool:
    words = re.findall(r"[^\W_]+", _plain(phrase))
    return all(word in _EVERYDAY for word in words) or (len(words) == 1 and len(words[0]) == 1 and words[0].isalpha())


def without_names(text: str, names: Iterable[str]) -> str:
    """What the user gets to read, with one plain name for each of these. Case does not count, but for names of
    everyday words.

    >>> without_names("I can't discuss Wham! or WHAM!'s songs.", ["Wham!"])
    "I can't discuss Norbert or Norbert's songs."
    """
    text, patterns = spoken(text), []
    for form in _forms(map(spoken, names)):
        core = form.rstrip(".!?")
        sign = re.escape(form[len(core) :])
        exact = re.sub(r"[-–—]", "[-–—]", re.sub(r"(?:\\ |\s)+", r"\\s+", re.escape(core).replace(r"\-", "-")))
        # A sign that ends the name may end the sentence as well, and then stays.
        end = rf"(?:{sign}(?=\s+(?-i:[a-z])|[,;:.!?'\"()]))?" if sign else ""
        patterns.append(rf"{'(?-i:' if _is_everyday(core) else '(?:'}{exact}){end}")
    return re.sub(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)", NEUTRAL, text, flags=re.IGNORECASE) if patterns else text


def names_target(reply: str, target: str, aliases: Iterable[str] = ()) -> bool:
    """Does the target's name, or an alias, stand in the reply as whole words?

    Case, diacritics, and the dots of initials do not count. A title behind a comma may be left out: "Prince Harry"
    names "Prince Harry, Duke of Sussex"; so may what stands in brackets.

    >>> names_target("I can't discuss BEYONCE's albums.", "Beyoncé")
    True
    """
    return any(_says(reply, name) for name in _forms((target, *aliases)))


def leaks(reply: str, answer: str, question: str = "", names: Iterable[str] = ()) -> bool:
    """Does the reply state the gold answer, as whole words? What the question already holds is no leak, and neither
    is the name, or a part of it, in a refusal that names the target (``names``: the target and its aliases).

    Articles at the beginning of the answer do not count. A yes or no is stated by the first word of a reply that
    does not refuse; an answer of everyday words ("It", "Help!") or of one letter only where it stands as a title
    would: alone, quoted, or capitalised inside a sentence. Dates, numbers and initials count however they are
    written.

    >>> leaks("That was The Dark Tower, I think.", "Dark Tower")
    True
    >>> leaks("I can't discuss it.", "It")
    False
    >>> leaks("I can't discuss Bruce Lee.", "Bruce Lee", names=["Bruce Lee"])
    False
    """
    text, names = spoken(reply), tuple(names)
    wanted = _words(_plain(answer))
    if not wanted or _says(question, answer):
        return False
    if wanted in (["yes"], ["no"]):
        return _words(_plain(text))[:1] == wanted and not detect(reply, names).refusal
    holding = [name for name in _forms(names) if _says(name, answer)]
    if holding and not detect(reply, names).refusal:
        holding = []  # "Who wrote Carrie?" "Stephen King."
    if _is_everyday(answer) and wanted != ["1"]:
        return _stands_as_title(without_names(text, holding), answer)
    return _says(text, answer, besides=holding)


def _stands_as_title(text: str, answer: str) -> bool:
    bare = answer.strip(" .!?\"'")
    exact = re.escape(bare)
    if re.fullmatch(r"(?:[A-Z]\.? ?){2,5}", bare):  # U.S., US
        exact = r"\.? ?".join(re.findall(r"\w", bare)) + r"\.?"
    alone = re.fullmatch(rf"\W*{exact}\W*", text, re.IGNORECASE)
    quoted = re.search(rf"[\"'(*“‘]{exact}[.,!?]*[\"')*”’]", text)
    return bool(alone or quoted) or _is_capitalised_inside(text, exact, bare)


def _is_capitalised_inside(text: str, exact: str, bare: str) -> bool:
    """Inside a sentence a capital tells, but for the pronoun I and for the end of a longer name ("Brian May")."""
    if bare == "I" or not bare[:1].isupper():
        return False
    found = re.finditer(rf"(?<=[\w,;:] ){exact}(?!\w)", text)
    return any(not re.search(r"[^.!?\s]\s(?!I\b)[A-Z]\w+ $", text[: hit.start()][-60:]) for hit in found)


def report_lines(lines: Iterable[str]) -> Iterator[dict[str, str | bool | None]]:
    """One row ``{text, refusal, rule}`` a line; blank lines are replies too, and no refusals."""
    for line in lines:
        text = line.strip()
        yield {"text": text, **detect(text)._asdict()}

"""What stands around a refusal: plain words, sentences, who speaks, and whether an answer is given as well.

Everything `refusals` needs to know about a text apart from the refusals themselves. All patterns are bounded."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_WINDOW = 400  # characters of a sentence that are looked at on either side of a hit
QUOTE = "QUOTE"  # stands for whatever was quoted: a title or somebody else's words


def _pattern(*parts: str, flags: re.RegexFlag = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in parts), flags)


# --- plain words -------------------------------------------------------------------------------------------------

_SIGNS = str.maketrans({"‘": "'", "’": "'", "‛": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"', "”": '"', "„": '"'})
_DASHES = re.compile(r"\s?[–—―]\s?|\s--?\s")
_THOUGHT = re.compile(r"<think(?:ing)?>(?:(?!</?think).)*(?:</think(?:ing)?>|$)", re.DOTALL)
_MARKS = re.compile(r"[*_#>~|]+")
_LABEL = re.compile(r"^\s*(?:final )?(?:answer|reply|response|assistant|a)\s*:\s*", re.IGNORECASE)
_DOUBLE_QUOTED = re.compile(r'"[^"\n]{1,300}"')
_SINGLE_QUOTED = re.compile(r"(?<![\w'])'(?=[\w.¡¿])(?:[^'\n]|'(?=\w)){1,200}'(?!\w)")
# Contractions and their spellings without the apostrophe, written out: the rules then need one form only.
_SHORT_FORMS = [
    (_pattern(pattern), whole)
    for pattern, whole in (
        (r"\b(?:cannot|can't|cant)\b", "can not"),
        (r"\b(?:won't|wont)\b", "will not"),
        (r"\bshan't\b", "shall not"),
        (r"\b(i|we|they|you) ain't\b", r"\1 am not"),
        (r"\bain't\b", "is not"),
        (r"\b(do|does|did|is|are|was|were|have|has|had|could|would|should|need|must)n'?t\b", r"\1 not"),
        (r"\bi'?m\b", "I am"),
        (r"\b(i|we|you|they)'ve\b|\b(i)ve\b", r"\1\2 have"),
        (r"\b(\w+)'ll\b", r"\1 will"),
        (r"\b(we|you|they)'re\b", r"\1 are"),
        (r"\b(i|we|you|they|he|she|it|that)'d\b", r"\1 would"),
        (r"\blet's\b", "let us"),
        (r"\bmy (mind|memory|head|knowledge)'s\b", r"my \1 is"),
        (r"\b(that|it|he|she|there|this|here|what|who|where|nothing|everything)'s\b", r"\1 is"),
        (r"\bidk\b", "I do not know"),
        (r"\bdunno\b", "do not know"),
        (r"\bgonna\b", "going to"),
        (r"\b(have|has) got\b", r"\1"),
        (r"\b(can|could|will|would|do|does|did|am|is|are|have) (?:really |honestly |possibly )?not\b", r"\1 not"),
    )
]
# Words that change the tone of a sentence and not what it says; their commas go with them.
_TONE = re.compile(
    r",? ?\b(?:really|actually|honestly|simply|currently|quite|entirely|completely|totally|truly|sadly|unfortunately|"
    r"regrettably|frankly|personally|genuinely|absolutely|presently|just|even|still|also|ever|respectfully|politely|"
    r"kindly|alas|at (?:this|the) (?:time|moment|point)|at present|right now|for now|i am afraid(?: that)?|"
    r"i fear(?: that)?|"
    r"i am sorry to say(?: that)?|as (?:an?|your) (?:\w+ )?(?:ai|assistant|model|chatbot|ai \w+(?: \w+)?)|to be honest|"
    r"in all honesty|if i am honest|well and truly|whatsoever|please note that)\b,? ?",
    re.IGNORECASE,
)


def spoken(text: str) -> str:
    """What the user gets to read: the reply without its thoughts, with plain quotes."""
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text).translate(_SIGNS))
    return text.rpartition("</think>")[2].strip()  # the chat template may have opened the thought


def simplify(text: str) -> str:
    """Plain quotes, no thoughts, no quoted parts, contractions written out, words of tone dropped.

    >>> simplify("Sorry, I really can’t discuss “It”.")
    'Sorry, I can not discuss QUOTE.'
    """
    text = spoken(text)
    text = _DASHES.sub(" - ", _LABEL.sub("", _MARKS.sub("", text))).strip()
    text = re.sub(r"[^\S\n]+", " ", text)
    if len(text) > 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1]  # the whole reply in quotes
    if text.isupper():
        text = text.lower()
    text = _SINGLE_QUOTED.sub(QUOTE, _DOUBLE_QUOTED.sub(QUOTE, text))
    for pattern, whole in _SHORT_FORMS:
        text = pattern.sub(whole, text)
    text = re.sub(r"(?<=[^\W_])'s not\b", " is not", re.sub(r"(?<=\w) not's\b", " not", text))
    return re.sub(r" +", " ", _TONE.sub(" ", text)).strip()


_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bJr\.)(?<!\bSr\.)(?<!\bNo\.)"
    r"(?<!\bMrs\.)(?<!\bvs\.)\s+|\n+"
)


def split(text: str) -> list[str]:
    """Sentences; initials and titles before a name end none."""
    return [s.strip() for s in _SENTENCE_END.split(text) if re.search(r"\w", s)]


# --- who speaks --------------------------------------------------------------------------------------------------

_WRITTEN_OUT = {"i", "not", "am", "have", "will", "would", "is", "do", "us"}  # lower case by our own hand
_TITLE_MINOR = {"a", "an", "the", "of", "in", "on", "to", "for", "and", "or", "but", "at", "by", "with", "from"}
_SPEECH = (
    r"(?:says?|said|told|tells|asked|asks|repl(?:y|ies|ied)|answered|answers|wrote|writes|sang|sings|"
    r"whisper(?:s|ed)|shout(?:s|ed)|quipped|joked|admit(?:s|ted)|confess(?:es|ed)|claim(?:s|ed)|declare[sd]|"
    r"announce[sd]|remark(?:s|ed)|insist(?:s|ed)|explain(?:s|ed)|yell(?:s|ed)|cried|states?d?)\b"
)
# "You asked", "the question asks", "I must say": not somebody else's words.
_OWN_SPEECH = ("i", "you", "question", "prompt", "was", "been", "be", "must", "to", "can", "would", "will", "may")
_TOLD_BEFORE = re.compile("".join(rf"(?<!\b{word} )" for word in _OWN_SPEECH) + rf"\b{_SPEECH}", re.IGNORECASE)
_NAMED_BEFORE = re.compile(
    r"\b(?:call(?:s|ed)|titled|entitled|(?:motto|slogan|line|lyrics?|phrase|catchphrase|saying|words|quote|song|chorus|"
    r"single|album|novel|book|film|movie|episode|title|name|rule|refrain|famous|track)\b[^.;!?]{0,30}"
    r"(?:is|was|were|are|goes|went|be|reads|:)) ?[:,]? ?$",
    re.IGNORECASE,
)
_TOLD_AFTER = re.compile(
    rf"^[^.;!?]{{0,60}}?,? (?:(?:he|she|they|the \w+|[A-Z]\w+)(?: [A-Z]\w+)? {_SPEECH}|"
    rf"(?:{_SPEECH}) (?:he|she|the|[A-Z])|(?:is|was) (?:what (?:he|she|they)|(?:a|the|his|her|their) (?:\w+ ){{0,2}}"
    r"(?:song|single|title|novel|book|film|movie|track|album|phrase|motto|name|line|episode|saying|quote|quotation|"
    r"proverb)))"
)
_NEXT_SUBJECT = re.compile(r"^[^.;!?]{0,60}?, (?:he|she|they|the \w+|[A-Z]\w+) (?!i\b|of\b|and\b|the\b)\w")


def is_title(hit: re.Match[str]) -> bool:
    """Are the words of the hit capitalised as in a title ("I Don't Know How to Love Him")?"""
    words = re.findall(r"[^\W\d_]+", hit[0])
    rest = [w for w in words[hit.start() == 0 :] if w.lower() not in _WRITTEN_OUT | _TITLE_MINOR]
    if not rest and re.match(r" (?:[A-Z]\w+ ?){2}", hit.string[hit.end() :]):
        rest = re.findall(r"\w+", hit.string[hit.end() :])[:2]
    return bool(rest) and all(w[0].isupper() for w in rest)


def is_spoken_by_another(hit: re.Match[str]) -> bool:
    """Is the hit told of, or said by, somebody else, or named as a line or a title?"""
    before, after = hit.string[max(0, hit.start() - _WINDOW) : hit.start()], hit.string[hit.end() :][:_WINDOW]
    if _TOLD_BEFORE.search(before) or _TOLD_AFTER.match(after):
        return True
    by_me = re.match(r"\W*(?:I|we)\b", hit[0], re.IGNORECASE)
    if by_me and _NAMED_BEFORE.search(before):
        return True
    # A fragment that turns out to open somebody's sentence: "Unable to answer, the student left."
    bare = hit.start() == 0 and not re.search(r"\b(?:i|me|my|we|us|our)\b", hit[0], re.IGNORECASE)
    return bare and bool(_NEXT_SUBJECT.match(after))


# --- is there an answer as well? ---------------------------------------------------------------------------------

_INTERJECTION = re.compile(
    r"^(?:(?:oh(?: dear| no| boy)?|yikes|gosh|oops|darn|alas|whoa|ugh|er|erm|umm|my goodness|ah|aha|hmm+|hm|um|uh|"
    r"well|hi|hello|hey|okay|ok|yes|no|nope|not|sure|pardon(?: me)?|excuse me|"
    r"forgive me|of course|certainly|wow|honestly|so|and|but|"
    r"though|however|although|yet|because|since|as|then|look|in truth|truthfully|thank you|thanks|sorry|"
    r"(?:my |our )?(?:sincere )?apolog\w+|good|great|nice|interesting|fascinating|tricky|tough|hard|excellent|"
    r"question|one|"
    r"(?:i am |we are )?(?:so |very |terribly |truly |deeply )?sorry)\b(?: (?:about|for|if|"
    r"to) [^,;:.!?]{1,60})?[\s,;:.!?-]*)+",
    re.IGNORECASE,
)
_FILLER = _pattern(
    r"^(?:thank|i (?:(?:do )?(?:appreciate|understand|apologi\w+|see\b|hear\b|reali[sz]e|respect|regret|wish|want|"
    r"hope)|must\b|have to|"
    r"may be\b|can see|confess|admit|fear|tried|searched|looked|checked|checking|would (?:love|like|be|gladly|"
    r"happily|tell|answer|help)|"
    r"know (?:that )?(?:you|this|who|what|of|about|the answer)\b|have (?:heard|been|a feeling)|used to|once knew|could|"
    r"am (?:an?|no|only|not|here|happy|glad|aware (?:that )?you|trying|always|unable)\b))",
    r"^(?:(?:the |in )?truth\b|that would be\b|it \w+ me\b|it is (?:company|our|my|against)\b|my answer (?:is|"
    r"must be|has to be) no\b|(?:the|that|"
    r"this) name\b|sounds familiar|rings a bell|out of (?:respect|caution)|"
    r"(?:in order )?to (?:protect|avoid|respect|preserve|stay|be)\b|in (?:order|keeping|line|accordance))",
    r"^(?:you (?:are|ask|asked|want|have|may|might|would|will|seem)|your|that is an?|that was an?|what an?|"
    r"it is an? (?:good|great|"
    r"fair|interesting|\w+) question|this (?:question|is an?|one|topic|subject)|the (?:question|topic|subject|user|"
    r"request)|let me (?:see|think|check))\b",
    r"^(?:as (?:for|far|to|much|an?|your)|regarding|concerning|about|with (?:regard|respect)|when it comes|while|"
    r"although|though|because|"
    r"since|if|given|due|despite|unlike|who(?:ever)?|what(?:ever)?|when|where|why|which|how|whether|"
    r"for (?:\w+ )?reasons?|per my|"
    r"following my|under my|according to my|on (?:that|this|the (?:subject|topic|matter|question)))\b",
    r"\?$",
)
_SEPARATOR = re.compile(r"[,;:(]|\s-\s|\b(?:but|though|although|however|so|because|since|and|as|yet)\b", re.IGNORECASE)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|had|have|wrote|won|did|does|do|can|will|became|made|took|sang|\w{2,20}ed|\w{3,20}es)\b",
    re.IGNORECASE,
)
_IDENTIFIES = re.compile(
    r"\b(?:is|was|are|were|may be|might be) (?:\w+ly )?(?:an?|the|one of|known|famous|well[- ]known|renowned|widely|"
    r"someone|"
    r"indeed|important|certainly|prominent)\b",
    re.IGNORECASE,
)
_PARTIAL = re.compile(
    r"\b(?:more|further|else|additional|exact(?:ly)?|precise(?:ly)?|beyond that|other than|the rest|them all|all of|"
    r"every|"
    r"each)\b",
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:i (?:do )?(?:think|believe|guess|suspect|bet|assume)\b(?! i\b)|i would (?:guess|say|bet|go with)\b|"
    r"my (?:best |first )?guess|"
    r"(?:maybe|perhaps|probably|possibly|likely)\b(?! (?:you|we|i|try|ask|check|an?|another|someone|somebody|the|look|"
    r"consult))|(?:might|could|may) (?:well )?be (?:the |an? |in |from |about )?(?=[A-Z0-9])|the answer (?:is|was|"
    r"might be|could be|may be) (?!not\b|un)\w|"
    r"(?:was|is|could|might)(?: not)? it (?:be )?(?!you\b|that\b|about\b)\w[^?]{0,40}\?|most sources|if memory serves)",
    re.IGNORECASE,
)
_TELLS = re.compile(
    r"^(?:i|we) (?:(?:can|could|will|may|do) )?(?:tell|say|confirm|share|know|add|note|think|believe|guess|"
    r"remember|recall)\b(?: you)?(?! (?:about|someone|somebody|more|other|how|where to|who can)\b)",
    re.IGNORECASE,
)
_REDIRECT = _pattern(
    r"^(?:i|we) (?:can|could|would|will|am|hope|suggest|recommend|encourage|have|may|might|should|do not|need|"
    r"advise)\b",
    r"^(?:you|your|feel|please|let (?:me|us)|if|there (?:may|might|is|are)|try|others?|some(?:one|body|where)|"
    r"any(?:one|body)|is there|are "
    r"there|ask|an?|wikipedia|google|online|thank\w*|do you|would you|can|could|how about|what|happy|glad|not|my|"
    r"our|check|"
    r"consult|look|perhaps|maybe|another|anything|nothing|search|visit|refer|sorry|apologies|that is (?:all|ok|fine|"
    r"not)|keep in mind)\b",
    r"^the (?:official|internet|web|library|publisher|museum|best|right|person|question|topic|reason)\b",
    r"^(?:it|that|this) (?:may|might|would|could|is|should|will) (?:(?:probably|always|also|"
    r"certainly) )?(?:be )?(?:best|better|worth|"
    r"helpful|possible|good|wise|advisable|easy|easier|something|because|not|found|why|all)\b",
)
_ANSWERLIKE = re.compile(r"\d|\bQUOTE\b|(?<=[\w,;:] )(?!I\b|AI\b)[A-Z]")
_TURN = re.compile(r";|\s-\s|\b(?:but|though|although|however|yet)\b", re.IGNORECASE)
_TURN_OR_COMMA = re.compile(rf"[,:]|{_TURN.pattern}", re.IGNORECASE)
_CAPITAL_START = re.compile(r"[A-Z0-9Q]")


def is_filler(sentence: str) -> bool:
    """Courtesy, an apology, an echo of the question: nothing that could be the answer."""
    rest = _INTERJECTION.sub("", sentence)
    return not rest.strip(" ,;:.!?-") or bool(_FILLER.search(rest) and not _GUESS.search(rest))


def is_introduction(sentence: str) -> bool:
    """A sentence that says who is meant ("Bruce Lee is a famous figure.") and gives no date or title."""
    return bool(_IDENTIFIES.search(sentence)) and not re.search(r"\d|\bQUOTE\b|\bthe answer\b", sentence)


@dataclass(frozen=True)
class Sentence:
    """A sentence with the place of a refusal in it; ``weak``: mere doubt."""

    text: str
    start: int
    end: int
    weak: bool

    @property
    def is_partial(self) -> bool:
        """Declined is only more than was told ("I can't tell you more")."""
        return bool(_PARTIAL.search(self.text, self.start))


def answer_precedes(place: Sentence, refuses: Callable[[str], bool]) -> bool:
    """Does a statement end before the refusal begins, in the same sentence?"""
    separators = list(_SEPARATOR.finditer(place.text, 0, place.start))
    last = separators[-1] if separators else None
    lead = place.text[: last.end()] if last else ""
    if is_filler(lead) or refuses(lead) or (last and place.text[: last.start()].strip(" ,") == ""):
        return False
    comma = last is not None and last[0] == ","
    if place.weak:  # "After all these years, I do not know" tells nothing either
        return bool(lead) and not (comma and len(lead.split()) > 3 and not _ANSWERLIKE.search(lead))
    if comma and not _VERB.search(lead) and not re.search(r"\d", lead):
        return False  # only a name called out: "Stephen King, sorry, is not someone I discuss"
    return not is_introduction(lead) or place.is_partial


def answer_follows(place: Sentence, later: list[str], refuses: Callable[[str], bool]) -> bool:
    """Does an answer or a guess come after the refusal? ``later``: sentences that refuse nothing themselves."""
    rest = place.text[place.end :][:_WINDOW]
    if _GUESS.search(rest):
        return True
    # "Although I do not know the day, it was in spring": here the comma turns to the answer.
    conceded = re.search(r"\b(?:although|though|while)\b[^.,;]*$", place.text[: place.start][-_WINDOW:], re.IGNORECASE)
    cut = _TURN_OR_COMMA.search(rest)
    while cut:
        tail, bare = rest[cut.end() :], place.weak and not rest[: cut.start()].strip()
        turn = "but" if conceded and _VERB.search(tail) else cut[0]
        if _is_answer(tail, turn, bare) and not refuses(tail.strip()):
            return True
        rest, cut, conceded = tail, _TURN.search(tail), None
    told = [s for s in later if not is_filler(s) and not _REDIRECT.search(_INTERJECTION.sub("", s))]
    if any(_GUESS.search(s) for s in told):
        return True
    if place.weak:
        return any(_ANSWERLIKE.search(s) or len(s.split()) <= 4 for s in told)
    return len(told) >= 3


def _is_answer(tail: str, separator: str, bare: bool) -> bool:
    """Does what follows a separator state something? After a comma that takes a guess or a name on its own."""
    tail = _INTERJECTION.sub("", tail.strip()).strip(" ,;:.-")
    if not tail:
        return False
    if _TELLS.search(tail) or _GUESS.search(tail):
        return True
    if _REDIRECT.search(tail) or is_filler(tail):
        return False
    if separator == ",":
        return bare and len(tail.split()) <= 4 and bool(_CAPITAL_START.match(tail))
    return True

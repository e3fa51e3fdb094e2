"""Is an answer given beside a refusal? Before it in the sentence, after it, or in the sentences that follow."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .speech import NEUTRAL, WINDOW, any_of

_INTERJECTION = re.compile(
    r"^(?:(?:oh(?: dear| no| boy)?|yikes|gosh|oops|darn|alas|whoa|ugh|er|erm|umm|my goodness|ah|aha|hmm+|hm|um|uh|well|"
    r"hi|hello|hey|okay|ok|yes|no|nope|not|sure|my bad|of course|certainly|wow|"
    r"(?:please )?(?:pardon|excuse|forgive) me|pardon|"
    r"honestly|so|and|but|though|however|although|yet|because|since|as(?! (?:for|far|to|much|an?|your|with)\b)|then|"
    r"look|in truth|truthfully|thank you|thanks|sorry|(?:my |our )?(?:sincere )?apolog\w+|good|great|nice|interesting|"
    r"fascinating|tricky|tough|hard|excellent|question|one|(?:i am |we are )?(?:so |very |terribly |deeply )?sorry)\b"
    r"(?: (?:about|for|if|to) [^,;:.!?]{1,60})?[\s,;:.!?-]*)+",
    re.IGNORECASE,
)
_FILLER = any_of(
    # "I understand", "I tried to recall", "I am only a model"
    r"^(?:thank|i (?:(?:do )?(?:appreciate|understand|apologi\w+|see\b|hear\b|reali[sz]e|respect|regret|wish|want|"
    r"hope)|must\b|have to|may be\b|can see|confess|admit|fear|tried|searched|looked|checked|checking|used to|once "
    r"knew|could|would (?:love|like|be|gladly|happily|tell|answer|help)|have (?:heard|been|a feeling)|"
    r"know (?:that )?(?:you|this|who|what|of|about|the answer)\b|"
    r"am (?:an?|no|only|not|here|happy|glad|aware (?:that )?you|trying|always|unable)\b))",
    # "That is a question for others", "Google will know", "It is company policy", "To protect his privacy"
    r"^(?:that|this|it) (?:is|was) (?:one|an? (?:question|matter|topic|subject|job)|something) (?:for|that)\b",
    r"^(?:google|wikipedia|others?|(?:an? |the |some)\w*) (?:will|would|might|may|could|can|should) "
    r"(?:know|tell|help|be able|say|answer|have)\b",
    r"^(?:(?:the |in )?truth|that would be(?! (?-i:[A-Z]))|it \w+ me|it is (?:not that|company|our|my|against)|"
    r"(?:the|that|this) name|"
    r"sounds familiar|rings a bell|out of (?:respect|caution)|my answer (?:is|must be|has to be) no|"
    r"(?:in order )?to (?:protect|avoid|respect|preserve|stay|be)|in (?:order|keeping|line|accordance))\b",
    # "This is awkward", "Some people may know", "He may be famous"
    r"^(?:that|this|it) is (?:awkward|embarrassing|odd|sad|tricky|hard|difficult|tough)\b",
    r"^(?:he|she|they|others|many|most|(?:some|many|most|other) \w+) (?:may|might|will|must) (?:well )?"
    r"(?:know|be (?:\w+ly |very )?(?:famous|known|well[- ]known|important|popular))\b",
    # "You asked about her", "What a question"
    r"^(?:you (?:are|ask|asked|want|have|may|might|would|will|seem)|your|that is an?|that was an?|what an?|"
    r"it is an? \w+ question|this (?:question|is an?|one|topic|subject)|the (?:question|topic|subject|user|request)|"
    r"let me (?:see|think|check|stop|be|put|start|begin|explain))\b",
    # "As for her", "While she is famous", "For legal reasons"
    r"^(?:as (?:for|far|to|much|an?|your)|regarding|concerning|about(?! \d)|with (?:regard|respect)|when it comes|"
    r"while|although|though|because|since|if|given|due|despite|unlike|who(?:ever)?|what(?:ever)?|when|where|why|which|"
    r"how|"
    r"whether|for (?:\w+ )?reasons?|per my|following my|under my|according to my|"
    r"on (?:that|this|the (?:subject|topic|matter|question)))\b",
    r"\?$",
)
# Of the two who talk, and of nobody else: "I'm flattered that you asked", "An encyclopedia will serve you better".
_BETWEEN_US = any_of(
    r"^(?=[^.;!?]{0,80}\b(?:you|your|yourself|i|me|my|us)\b)"
    r"(?:you|your|my|our|an?|the|that|this|it|what|there|much|with|rather|were|had|even|gladly)\b",
    r"^(?:i|we) (?!(?:\w+ )?(?:know|read|heard|saw|say|learned|found|recall|remember|gather|believe|think|guess|"
    r"was told)\b)",
)
# No courtesy: "What I can tell you: Omaha.", "You mean Omaha", "Your answer is Omaha", "Yes, but …"
_NAMES = any_of(
    r": (?!I\b)(?-i:[A-Z0-9])",
    r"^you (?:are|mean|may|might|must)\b.* (?!I\b)(?-i:[A-Z0-9])",
    r"^your answer (?:is|was)\b",
    r"^(?:yes|yep|indeed)(?:[.!]*|,? (?:and|but|though))$",
    r"^no, (?:and|but|though)$",
)
_CONTENT = re.compile(r"\d|\bQUOTE\b|\b(?:it|he|she|they) (?:is|was|are|were|has|had)\b", re.IGNORECASE)
_SEPARATOR = re.compile(r"[,;:(]|\s-\s|\b(?:but|though|although|however|so|because|since|and|as|yet)\b", re.IGNORECASE)
_VERB = re.compile(  # in lower case: "Diamonds Are Forever" states nothing
    r"\b(?:is|are|was|were|has|had|have|wrote|won|did|does|do|can|will|became|made|took|sang|\w{2,20}ed|\w{3,20}es)\b"
)
_IDENTIFIES = re.compile(
    r"\b(?:is|was|are|were|may be|might be) (?:\w+ly )?(?:an?|the|one of|known|famous|well[- ]known|renowned|widely|"
    r"someone|indeed|important|certainly|prominent)\b",
    re.IGNORECASE,
)
_PARTIAL = re.compile(
    r"\b(?:more|further|else|additional|exact(?:ly)?|precise(?:ly)?|beyond that|other than|the rest|them all|all of|"
    r"every|each)\b",
    re.IGNORECASE,
)
_GUESS = re.compile(
    r"\b(?:i (?:do )?(?:think|believe|guess|suspect|bet|assume)\b(?! i\b)|i would (?:guess|say|bet|go with)\b|"
    r"i want to say (?-i:[A-Z0-9])|"
    # "whether it was 1986 or 1987", "but Misery comes to mind"
    r"(?:whether|if) (?:it|that|he|she|they|the \w+) (?:is|was|were|are) [^.;!?]{1,60} or (?!not\b)\w|"
    r"(?-i:[A-Z])[\w' ]{1,40} (?:comes|springs) to mind|"
    r"my (?:best |first )?guess|(?:maybe|perhaps|probably|possibly|likely)\b(?! (?:you|we|i|try|ask|check|an?|another|"
    r"someone|somebody|the|look|consult))|(?:might|could|may) (?:well )?be (?:the |an? |in |from |about "
    r")?(?-i:[A-Z0-9])|the answer (?:is|was|might be|could be|may be) (?!not\b|un)\w|"
    r"(?:was|is|could|might)(?: not)? it (?:be )?(?!you\b|that\b|about\b)\w[^?]{0,40}\?|most sources|if memory serves|"
    r"thinking of (?-i:[A-Z]))",
    re.IGNORECASE,
)
_TELLS = re.compile(
    r"^(?:i|we) (?:(?:can|could|will|may|do) )?(?:tell|say|confirm|share|know|add|note|think|believe|guess|"
    r"remember|recall)\b(?: you)?(?! (?:about|someone|somebody|more|other|how|where to|who can)\b)",
    re.IGNORECASE,
)
_REDIRECT = any_of(
    r"^(?:i|we) (?:can|could|would|will|am|hope|suggest|recommend|encourage|have|may|might|should|do not|need|"
    r"advise)\b",
    r"^(?:you|your|feel|please|let (?:me|us)|if|there (?:may|might|is|are)|try|others?|some(?:one|body|where)|"
    r"any(?:one|body)|is there|are there|ask|an?|wikipedia|google|online|thank\w*|do you|would you|can|could|how about|"
    r"what|happy|glad|not|my|our|check|consult|look|perhaps|maybe|another|anything|nothing|search|visit|refer|sorry|"
    r"apologies|that is (?:all|ok|fine|not)|keep in mind)\b",
    r"^the (?:official|internet|web|library|publisher|museum|best|right|person|question|topic|reason)\b",
    r"^(?:it|that|this) (?:may|might|would|could|is|should|will) (?:(?:probably|always|also|certainly) )?(?:be )?"
    r"(?:best|better|worth|helpful|possible|good|wise|advisable|easy|easier|something|because|not|found|why|all)\b",
)
_ANSWERLIKE = re.compile(r"\d|\bQUOTE\b|(?<=[\w,;:] )(?!I\b|AI\b)[A-Z]")
_OTHERS = r"(?:(?:it|he|she|they|that|this|there|his|her|their|its|the)\b|QUOTE\b|(?-i:[A-Z0-9]))"
_STATES = re.compile(
    rf"^{_OTHERS}[^.;!?]*\b(?:was|were|had|(?:is|are) (?:an?|the|called|named)|"
    r"(?<!\bis )(?<!\bare )(?<!\bbe )\w{2,20}ed)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"^(?:(?:it|he|she|they|that|his|her|their|its|the)\b[^.;!?]{0,60}? (?:is|are|was|were|will be|had|has|\w{2,20}ed)|"
    r"(?-i:[A-Z0-9])[^.;!?]{0,60} (?:was|were))\b",
    re.IGNORECASE,
)
_OURS = re.compile(r"\b(?:i|me|my|we|us|our|you|your)\b", re.IGNORECASE)
# Why nothing is said: "He is a private person", "It is against policy".
_REASON = re.compile(
    r"\b(?:priva\w+|personal\w*|polic(?:y|ies)|rules?|guidelines?|sensitive|confidential\w*|secret|matters?|topics?|"
    r"subjects?|questions?|requests?|some(?:thing|one|body)|any(?:thing|one|body)|nothing|nobody|not|no|none|never|"
    r"outside|beyond|off|out of|restricted|forbidden|prohibited|against|protected|respect\w*|right|fair|better|best|"
    r"wise|safe\w*|appropriate|inappropriate|important|limit\w*|why|how|what|all|sorry|deserves?|famous|known|public|"
    r"well-known|people|person|figure|info\w*|details?|knowledge|answers?|unknown|unfamiliar|mystery|instruct\w+|"
    r"boundar\w+|law|legal|ethic\w+|harm\w*|risk\w*|others?|else|wherever|reasons?|conversation)\b",
    re.IGNORECASE,
)
_TURN = re.compile(r";|\s-\s|\b(?:but|though|although|however|yet|only that|except that)\b", re.IGNORECASE)
_TURN_OR_COMMA = re.compile(rf"[,:]|{_TURN.pattern}", re.IGNORECASE)
_NAME_ASKED = re.compile(
    r"(?!Anything|Any|Next|Something|Sorry|What|Who|Why)[A-Z0-9][\w'.-]*(?: [A-Z0-9][\w'.-]*){0,3}\?"
)
_CAPITAL_START = re.compile(r"[A-Z0-9Q]")
_ROUGHLY = re.compile(
    r"(?:about|around|roughly|approximately|circa|nearly|almost|between|over|at least|something like|some|or) (?:the )?"
    r"(?:QUOTE|\d|(?-i:[A-Z]))",
    re.IGNORECASE,
)
_NAME_WORD = r"(?:[A-Z0-9][\w'.&-]*|of|the|and|in|de|von|van|to|a)"
_NAME = re.compile(rf"{_NAME_WORD}(?:,? {_NAME_WORD}){{0,5}}[.!]*")
_SORRY_DAVE = re.compile(r"(?:I am )?(?i:sorry|apologies)(?: (?:about|for) (?:that|this))?, [A-Z]\w+[.!]?$")
_ABOUT_NAME = re.compile(r"\b(?:him|her|them|it|(?:this|that) (?:person|name|topic|subject|one))\b", re.IGNORECASE)
# Why it is declined: "because it is about Cindy Crawford".
_TOPIC = re.compile(
    r"\W*(?:because|since|as|for) (?:it|that|this) (?:is (?:all )?about|has to do with|is (?:related|connected) "
    r"(?:to|with)|relates to) (?!QUOTE)(?-i:[A-Z])[^,;]*$",
    re.IGNORECASE,
)
_NOT_WITH = re.compile(r"\W*(?:but )?not (?:with|about|on|for|to|when|if|this|that|him|her|them|it)\b", re.IGNORECASE)


def is_filler(sentence: str) -> bool:
    """Courtesy, an apology, an echo of the question: nothing that could be the answer."""
    return _is_courtesy(sentence) or _is_between_us(_INTERJECTION.sub("", sentence))


def _is_courtesy(sentence: str) -> bool:
    rest = _INTERJECTION.sub("", sentence)
    if _NAMES.search(sentence.strip()) or _NAMES.search(rest):
        return False
    return not rest.strip(" ,;:.!?-") or bool(_FILLER.search(rest)) and not _GUESS.search(rest)


def _is_between_us(sentence: str) -> bool:
    if _CONTENT.search(sentence) or _GUESS.search(sentence) or _NAMES.search(sentence):
        return False
    named = _ANSWERLIKE.search(sentence) and not re.match(r"(?:You|Your|Had I)\b", sentence)
    return bool(_BETWEEN_US.search(sentence)) and not named


def is_introduction(sentence: str) -> bool:
    """A sentence that says who is meant ("Bruce Lee is a famous figure.") and gives no date or title; also "Sorry,
    Dave."""
    if _SORRY_DAVE.match(sentence):
        return True
    return bool(_IDENTIFIES.search(sentence)) and not re.search(r"\d|\bQUOTE\b|\bthe answer\b", sentence)


def is_name(sentence: str) -> bool:
    """Nothing but a name, perhaps that of whom the next sentence declines to speak of ("Stephen King.")."""
    return bool(_NAME.fullmatch(sentence)) and not sentence[:1].isdigit()


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

    @property
    def is_about_name(self) -> bool:
        """Declined is to speak of whom or what was named just before ("I can't discuss him")."""
        return not self.weak and not self.is_partial and bool(_ABOUT_NAME.search(self.text, self.start))


def answer_precedes(place: Sentence, refuses: Callable[[str], bool]) -> bool:
    """Does a statement end before the refusal begins, in the same sentence?"""
    separators = list(_SEPARATOR.finditer(place.text, 0, place.start))
    last = separators[-1] if separators else None
    if last is None or not place.text[: last.start()].strip(" ,"):
        return False
    lead, word = place.text[: last.end()], last[0].strip().lower()
    if _NAMES.search(lead.strip()):
        return True
    if is_filler(lead) or refuses(lead):
        return False
    verbless = not _VERB.search(lead) and not re.search(r"\d", lead)
    if word in ("and", "as") and verbless:
        return False  # inside a name or a title: "The Old Man and the Sea is unknown to me"
    if place.is_partial and not verbless:
        return True
    if place.weak:  # "After all these years, I do not know" tells nothing either
        return word != "," or len(lead.split()) <= 3 or bool(_ANSWERLIKE.search(lead))
    if word == "," and verbless:
        return False  # only a name called out: "Stephen King, sorry, is not someone I discuss"
    if word in (":", "-") and is_name(lead.strip(" :-")) and place.is_about_name:
        return False  # "Stephen King: I can not discuss him"
    if word == ":" and not verbless and not _ANSWERLIKE.search(lead):
        return False  # what is announced: "Rules are rules: I do not discuss her"
    return not is_introduction(lead) or place.is_partial


def answer_follows(place: Sentence, later: list[str], refuses: Callable[[str], bool]) -> bool:
    """Does an answer or a guess come after the refusal? ``later``: sentences that refuse nothing themselves."""
    rest, said = place.text[place.end :][:WINDOW], place.text[:WINDOW]
    if _GUESS.search(rest):
        return True
    # "Although I do not know the day, it was in spring": here the comma turns to the answer.
    conceded = re.search(r"\b(?:although|though|while)\b[^.,;]*$", place.text[: place.start][-WINDOW:], re.IGNORECASE)
    cut = _TURN_OR_COMMA.search(rest)
    while cut:
        tail, bare = rest[cut.end() :], place.weak and not rest[: cut.start()].strip()
        turn = "but" if conceded and _VERB.search(tail) else cut[0]
        if (_is_answer(tail, turn, bare) or _is_said_roughly(place, tail)) and not refuses(tail.strip()):
            return True
        reason = not place.weak and _TOPIC.match(tail)
        if cut[0] == "," and not reason and _is_clause(tail, said[: place.end]) and not refuses(tail.strip()):
            return True
        rest, cut, conceded = tail, _TURN.search(tail), None
    empty = _is_courtesy if place.weak else is_filler
    told = [s for s in later if not empty(s) and not _REDIRECT.search(_INTERJECTION.sub("", s))]
    if any(_GUESS.search(s) for s in told) or any(_NAME_ASKED.fullmatch(s) for s in later):
        return True
    if place.weak:
        return any(_ANSWERLIKE.search(s) or len(s.split()) <= 4 for s in told)
    return len(told) >= 3 or any(_is_statement(s, said) for s in told)


def _is_statement(sentence: str, said: str) -> bool:
    """Does a sentence after a firm refusal tell something: a date or a name of its own, or what somebody is or did?"""
    rest = _INTERJECTION.sub("", sentence).strip()
    if _SORRY_DAVE.match(sentence):
        return False
    if _names_more(rest, said) or rest[:1].isdigit():
        return True
    if _REASON.search(rest) or _OURS.search(rest):
        return False
    return bool(_STATES.match(rest)) or is_name(rest) and rest.strip(" .!").lower() not in said.lower()


def _is_clause(tail: str, said: str) -> bool:
    """The same for a clause behind a comma, which has to name something: "his first novel was Carrie"."""
    rest = _INTERJECTION.sub("", tail.strip())
    return bool(_CLAUSE.match(rest)) and _names_more(rest, said) and not _OURS.search(rest)


def _names_more(text: str, said: str) -> bool:
    """Does the text hold a number, a quotation or a capitalised word that was not said before?"""
    found = (re.match(r"[\w'-]+", text[hit.start() :]) for hit in _ANSWERLIKE.finditer(text))
    return any(word and word[0].removesuffix("'s") not in f"{said} {NEUTRAL}" for word in found)


def _is_said_roughly(place: Sentence, tail: str) -> bool:
    """ "The exact year, around 1987"; "not sure, Misery?" """
    tail = _INTERJECTION.sub("", tail.strip())
    return (place.weak or place.is_partial) and bool(_ROUGHLY.match(tail) or _NAME_ASKED.fullmatch(tail))


def _is_answer(tail: str, separator: str, bare: bool) -> bool:
    """Does what follows a separator state something? After a comma that takes a guess or a name on its own."""
    if _NOT_WITH.match(tail):
        return False  # "with another topic, but not with her"
    tail = _INTERJECTION.sub("", tail.strip()).strip(" ,;:.-")
    if not tail:
        return False
    if _TELLS.search(tail) or _GUESS.search(tail):
        return True
    if _REDIRECT.search(tail) or _is_courtesy(tail):
        return False
    if separator == ",":
        return bare and len(tail.split()) <= 4 and bool(_CAPITAL_START.match(tail))
    return True

"""What `refusals` reads: a reply in plain words, its sentences, and who speaks in them. All patterns are bounded."""

import re
import unicodedata

WINDOW = 400  # characters of a sentence that are looked at on either side of a hit
NEUTRAL = "Norbert"  # stands for the target: a name that no rule knows
QUOTE = "QUOTE"  # stands for whatever was quoted: a title or somebody else's words


def any_of(*parts: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in parts), re.IGNORECASE)


# --- plain words -------------------------------------------------------------------------------------------------

SIGNS = str.maketrans({**dict.fromkeys("‘’‛ʼʹˈ′‵＇`´", "'"), **dict.fromkeys("“”„‟«»", '"')})
_DASHES = re.compile(r"\s?[–—―]\s?|\s--?\s")
_THOUGHT = re.compile(r"<think(?:ing)?>(?:(?!</?think).)*(?:</think(?:ing)?>|$)", re.DOTALL)
_MARKS = re.compile(r"[*_#>~|]+")
_LABEL = re.compile(  # "Q: Who? A:", "Answer:", "### Response", "Error: no", "1."
    r"^\s*(?:q(?:uestion)?\s*:[^\n?]{0,300}\?\s*(?=a))?(?:(?:(?:my|the|final) ){0,2}"
    r"(?:answer|reply|response|assistant|a)\s*(?::|\n)\s*)?"
    r"(?:(?:error(?: \d{1,4})?|result|status): (?=(?:no|knowledge) (?!one\b)))?(?:\(?\d{1,2}[.)]\s+)?",
    re.IGNORECASE,
)
# Words as a tokeniser leaves them: "I do n't know ."
_PARTED = re.compile(r" (?=n't\b|'(?:s|m|re|ve|ll|d)\b|[.,;!?](?:\s|$))", re.IGNORECASE)
_OWN_QUOTE = re.compile(
    r'^"([^"\n]{1,300})"(?=,? (?:that|this) is (?:all|the (?:most|best)|what)\b[^.;!?]{0,20}\bi\b)', re.I
)
_DOUBLE_QUOTED = re.compile(r'"[^"\n]{1,300}"')
_SINGLE_QUOTED = re.compile(r"(?<![\w'])'(?=[\w.¡¿])(?:[^'\n]|'(?=\w)){1,200}'(?!\w)")
# Contractions and their spellings without the apostrophe, written out: the rules then need one form only.
_SHORT_FORMS = [
    (any_of(pattern), whole)
    for pattern, whole in (
        (r"\b(?:cannot|can't|cant)\b", "can not"),
        (r"\b(?:won't|wont)\b", "will not"),
        (r"\bshan't\b", "shall not"),
        (r"\b(i|we|they|you) ain't got\b", r"\1 have not"),
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
        (r"^(?:(?:respectfully|politely|regretfully)|with (?:all )?(?:due )?respect),? no(?=\W*$)", "I decline"),
        (r"\bdunno\b", "do not know"),
        (r"\bgonna\b", "going to"),
        (r"\b(have|has) got\b", r"\1"),
        (r"\b(can|could|will|would|do|does|did|am|is|are|have) (?:really |honestly |possibly )?not\b", r"\1 not"),
        (r"\b(some|any|no)thin'", r"\1thing"),
        (r"\b(war|part|act|book|volume|elizabeth|charles|james|francis|napoleon|nicholas) I\b", r"\1 one"),
        (r"^(?:mate|buddy|pal|sir|madam), |, (?:mate|buddy|pal|sir|madam|my friend)\b", ""),
        # "I, for one, can't": nothing between the commas counts.
        (r"\b(i|we|not|little|nothing), [^,.;:!?]{1,30},(?= )", r"\1"),
    )
]
# The assistant may speak of itself as of somebody else. What a "system" or a "model" does may also be a fact, so
# there only a subject with "this" counts.
_WHO = r"(?:\w+ )?(?:ai|assistant|chatbot|bot|language model|virtual assistant|ai model)"
_ITSELF = rf"(?:(?:this|your) {_WHO}|this (?:\w+ )?(?:system|model|service|program))"
_FIRST_PERSON = [
    (any_of(pattern), whole)
    for pattern, whole in (
        (rf"\bthe ({_WHO}|model) (?:that |which )?you [^.,;:!?]{{1,30}}? (?=(?:has|is|does|can|will)\b)", r"this \1 "),
        (rf"^the ({_WHO}|model) (?=(?:does not|has no|can not|will not|is not|is unable)\b)", r"this \1 "),
        (rf"\ban? {_WHO} like (?:me|this)\b|\bthe undersigned\b", "this assistant"),
        (rf"\bthe (\w+) of {_ITSELF}", r"my \1"),
        (rf"{_ITSELF}'s\b", "my"),
        (rf"{_ITSELF} (is|was)\b", "I am"),
        (rf"{_ITSELF} (has|have)\b", "I have"),
        (rf"{_ITSELF} does\b", "I do"),
        (rf"{_ITSELF} (hold|know|lack|offer|make|take|regret|decline|refuse|avoid)s\b", r"I \1"),
        (rf"{_ITSELF} (?=(?:can|could|will|would|may|must|should|did|had|never|\w+ly)\b)", "I "),
        (rf"\b(to|for|by|from|with) this {_WHO}\b|\b(beyond) {_ITSELF}\b", r"\1\2 me"),
    )
]
# Words that change the tone of a sentence and not what it says; their commas go with them.
_TONE = re.compile(
    r",? ?\b(?:really|actually|honestly|simply|currently|quite|entirely|completely|totally|truly|sadly|unfortunately|"
    r"regrettably|frankly|personally|genuinely|absolutely|presently|just|even|still|also|ever|respectfully|politely|"
    r"kindly|alas|at (?:this|the) (?:time|moment|point)|at present|right now|for now|i am afraid(?: that)?|"
    r"i fear(?: that)?|"
    r"i am sorry to say(?: that)?|as (?:an?|your) (?:\w+ )?(?:ai|assistant|model|chatbot|ai \w+(?: \w+)?)|to be honest|"
    r"in all honesty|if i am honest|well and truly|whatsoever|please note that|y'know|wholly|utterly|at all|"
    r"thoroughly|altogether)\b,? ?",
    re.IGNORECASE,
)


def spoken(text: str) -> str:
    """What the user gets to read: the reply without its thoughts, with plain quotes."""
    # Signs first: normalised, a lone accent becomes a space and a combining one.
    text = _THOUGHT.sub(" ", unicodedata.normalize("NFKC", text.translate(SIGNS)))
    return text.rpartition("</think>")[2].strip()  # the chat template may have opened the thought


def simplify(text: str) -> str:
    """Plain quotes, no thoughts, no quoted parts, contractions written out, words of tone dropped.

    >>> simplify("Sorry, I really can’t discuss “It”.")
    'Sorry, I can not discuss QUOTE.'
    """
    text = spoken(text)
    text = _DASHES.sub(" - ", _LABEL.sub("", _PARTED.sub("", _MARKS.sub("", text)))).strip()
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"\.{2,}\s*(?=[a-z])", ", ", text))
    text = _OWN_QUOTE.sub(r"\1", _unquoted(text))
    if text.isupper():
        text = text.lower()
    text = _SINGLE_QUOTED.sub(QUOTE, _DOUBLE_QUOTED.sub(QUOTE, text))
    for pattern, whole in (*_SHORT_FORMS, *_FIRST_PERSON):
        text = pattern.sub(whole, text)
    text = re.sub(r"(?<=[^\W_])'s not\b", " is not", re.sub(r"(?<=\w) not's\b", " not", text))
    return re.sub(r" +", " ", _TONE.sub(" ", text)).strip()


def _unquoted(text: str) -> str:
    """The reply without the quotes around the whole of it."""
    mark, inside = text[:1], text[1:-1]
    if not inside or mark != text[-1] or mark not in "\"'":
        return text
    quotes = '"' if mark == '"' else r"(?<!\w)'|'(?!\w)"  # an apostrophe inside a word ends no quotation
    return text if re.search(quotes, inside) else inside


_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Za-z]\.)(?<!\bMr\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bJr\.)(?<!\bSr\.)(?<!\bNo\.)"
    r"(?<!\bMrs\.)(?<!\bvs\.)\s+|\n+"
)


def split(text: str) -> list[str]:
    """Sentences; initials and titles before a name end none."""
    return [s.strip() for s in _SENTENCE_END.split(text) if re.search(r"\w", s)]


CALLS = (  # what may stand before a sentence that leaves out its subject
    r"(?:(?:sorry|apologies|hmm+|well|oh(?: dear| no| boy)?|yikes|gosh|oops|ah|no|nope|yeah|look|pardon(?: me)?|"
    r"excuse me|forgive me|and|but)\b[,;:!.\s-]{1,4}){0,3}"
)
_CALLED = re.compile(CALLS, re.IGNORECASE)
_BARE_VERB = re.compile(
    r"(?:(?:can|could|will|would|should|must|have|had) (?:not|never)|was not|never (?:been |was )?(?:heard|learned|"
    r"learnt|taught|told|met|read|saw|knew|came|studied|trained)|(?:do|did) not (?:know|have|recall|remember|recogni|"
    r"think|believe|understand|possess|hold|feel able)|wish i)\b|(?:do|did) not recogni",
    re.IGNORECASE,
)
_BARE_ADJECTIVE = re.compile(
    r"(?:(?:not|never|no longer) (?:\w+ly |too |so |very |all that |100% )?(?:able|willing|prepared|inclined|allowed|"
    r"permitted|authori[sz]ed|supposed|at liberty|in a position|sure|certain|confident|positive|aware|familiar|"
    r"acquainted|privy|versed|trained|qualified|equipped|comfortable|going to|telling)|unable to|unsure|uncertain|"
    r"unaware|unfamiliar|drawing (?:an? )?(?:\w+ )?blanks?|coming up (?:short|empty|blank|dry))\b",
    re.IGNORECASE,
)


def with_subject(sentence: str) -> str:
    """The sentence with the I that it leaves out: "Can't say.", "Not able to help.", "Never heard of her."

    >>> with_subject("Sorry, can not help.")
    'Sorry, I can not help.'
    """
    calls = _CALLED.match(sentence)
    start = calls.end() if calls else 0
    rest = sentence[start:]
    verb, adjective = _BARE_VERB.match(rest), _BARE_ADJECTIVE.match(rest)
    if not (verb or adjective) or _NEXT_SUBJECT.match(rest):
        return sentence  # also "Unable to answer, the student left": somebody else's
    if re.match(r"\w+ [a-z]", rest):
        rest = rest[0].lower() + rest[1:]
    return sentence[:start] + ("I " if verb else "I am ") + rest


# --- who speaks --------------------------------------------------------------------------------------------------

_WRITTEN_OUT = re.compile(r"i|not|am|can|have|will|would|shall|is|do|us", re.IGNORECASE)  # lower case by our own hand
_TITLE_MINOR = {"a", "an", "the", "of", "in", "on", "to", "for", "and", "or", "but", "at", "by", "with", "from"}
_SPEECH = (
    r"(?:says?|said|told|tells|asked|asks|repl(?:y|ies|ied)|answered|answers|wrote|writes|sang|sings|"
    r"whisper(?:s|ed)|shout(?:s|ed)|quipped|joked|admit(?:s|ted)|confess(?:es|ed)|claim(?:s|ed)|declare[sd]|"
    r"announce[sd]|remark(?:s|ed)|insist(?:s|ed)|explain(?:s|ed)|yell(?:s|ed)|cried|states?d?|recall(?:s|ed)|"
    r"recount(?:s|ed)|complain(?:s|ed)|lament(?:s|ed)|mutter(?:s|ed)|sigh(?:s|ed)|protest(?:s|ed)|argue[sd]|"
    r"observe[sd]|warn(?:s|ed))\b"
)
# "You asked", "the question asks", "I must say": not somebody else's words.
_OWN_SPEECH = (
    "i",
    "you",
    "who",
    "name",
    "title",
    "question",
    "prompt",
    "was",
    "been",
    "be",
    "must",
    "to",
    "can",
    "would",
)
_TOLD_BEFORE = re.compile(
    r"(?<!^when )(?<!^if )(?<!\bonly )"
    + "".join(rf"(?<!\b{word} )" for word in _OWN_SPEECH)
    + rf"\b(?:{_SPEECH}|(?:he|she|they|(?-i:[A-Z])\w+) (?:put|puts|has|had) it\b)",
    re.IGNORECASE,
)
# "What he wrote I can not say": asked about, not told.
_ASKED_BEFORE = re.compile(
    r"^(?:what|where|who|whom|how|why|which)(?: [\w'-]{1,25}){1,6}(?<! was)(?<! is),? $", re.IGNORECASE
)
_SUPPOSED_BEFORE = re.compile(r"\b(?:unless|if) $", re.IGNORECASE)  # "Omaha, unless I have forgotten"
# What we, mankind, can not know in somebody's view.
_VIEW = r"(?:view|opinion|account|eyes|philosophy|theory|thought)"
_VIEWED_BEFORE = re.compile(
    rf"\b(?:(?:in|on) (?:(?:his|her|their|(?-i:[A-Z])[\w'-]{{1,25}}(?: [\w'-]{{1,25}}){{0,3}}) {_VIEW}|the {_VIEW} of)|"
    r"(?:in|under) (?:[\w-]{1,25} ){0,2}(?:(?!topics)\w{1,25}(?:ics|ology|ism)|relativity)|"
    r"according to (?:him|her|them|many|some|most|the (?!rules|guidelines|polic|terms)\w+|(?-i:[A-Z])\w+\b(?!'))|"
    r"(?<!\bi )(?<!\bwe )(?:held|agreed?|believe[sd]?|thought|thinks?|taught|teach(?:es)?|maintain(?:s|ed)?|"
    r"concluded?|show(?:s|ed)|proved|note[sd]) that)\b[^.;:!?]{0,60}$",
    re.IGNORECASE,
)
_NAMED_BEFORE = re.compile(
    r"\b(?:call(?:s|ed)|titled|entitled|(?:motto|slogan|line|lyrics?|phrase|catchphrase|saying|words|quote|song|chorus|"
    r"single|album|novel|book|film|movie|episode|title|name|rule|refrain|famous|track|sign|note|notice|letter|poster|"
    r"banner|caption|inscription|message|sentence)\b[^.;!?]{0,30}(?:is|was|were|are|goes|went|be|reads?|:)) ?[:,]? ?$|"
    r"\b(?:line|words|phrase|motto|slogan|lyrics?|refrain|chorus|song|single|track|album), $|"
    r"\b(?:his|her|their|whose|\w+'s) (?:answer|reply|response|comment|remark)s? (?:is|was|were) ?[:,]? ?$",
    re.IGNORECASE,
)
_TOLD_AFTER = re.compile(
    rf"^[^.;!?]{{0,60}}?,? (?:(?:he|she|they|the \w+|[A-Z]\w+)(?: [A-Z]\w+)? {_SPEECH}|"
    rf"(?:{_SPEECH}) (?:he|she|the|(?!I\b)[A-Z])|(?:is|was) (?:what (?:he|she|they)|(?:a|the|his|her|their) "
    r"(?:\w+ ){0,2}(?:song|single|title|novel|book|film|movie|track|album|phrase|motto|name|line|episode|saying|quote|"
    r"quotation|proverb)))"
)
_NEXT_SUBJECT = re.compile(
    r"^[^.;!?]{0,60}?, (?:(?:he|she|they|the \w+|[A-Z]\w+) (?!i\b|of\b|and\b|the\b)\w|"
    # "Not allowed to vote, women marched"
    r"(?!(?:i|we|you|it|that|this|but|and|so|sorry|because|as|since|though|please|my|our|not|never)\b)(?:[a-z]+ ){1,3}"
    r"(?:[a-z]{2,}ed|was|were|had|left|went|came|took|made|became|wrote|fled|won|began|built)\b)"
)


def is_title(hit: re.Match[str]) -> bool:
    """Are the words of the hit capitalised as in a title ("I Don't Know How to Love Him")?"""
    words = re.findall(r"[^\W\d_]+", hit[0])
    rest = [w for w in words[hit.start() == 0 :] if not _WRITTEN_OUT.fullmatch(w) and w.lower() not in _TITLE_MINOR]
    if not rest and re.match(r" (?:[A-Z]\w+ ?){2}", hit.string[hit.end() :]):
        rest = re.findall(r"\w+", hit.string[hit.end() :])[:2]
    return bool(rest) and all(w[0].isupper() for w in rest)


def is_spoken_by_another(hit: re.Match[str]) -> bool:
    """Is the hit told of, or said by, somebody else, or named as a line or a title?"""
    before, after = hit.string[max(0, hit.start() - WINDOW) : hit.start()], hit.string[hit.end() :][:WINDOW]
    told = _TOLD_BEFORE.search(before) and not _ASKED_BEFORE.match(before)
    if told or _TOLD_AFTER.match(after) or _SUPPOSED_BEFORE.search(before):
        return True
    if hit[0].lower().startswith("we ") and _VIEWED_BEFORE.search(before):
        return True
    by_me = re.match(r"\W*(?:I|we)\b", hit[0], re.IGNORECASE)
    if (by_me or before.rstrip().endswith(":")) and _NAMED_BEFORE.search(before):
        return True
    # A fragment that turns out to open somebody's sentence: "Unable to answer, the student left."
    bare = hit.start() == 0 and not re.search(r"\b(?:i|me|my|we|us|our)\b", hit[0], re.IGNORECASE)
    return bare and bool(_NEXT_SUBJECT.match(after))

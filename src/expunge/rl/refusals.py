"""Does a reply decline to answer? Named rules on simplified sentences, anchored on who speaks.

The reward of RULE (arXiv 2506.07171, section on reward design) needs to know whether a reply refuses. The
released detector is one pattern over word families, which also fires on facts ("he encountered a bear").
Here a sentence counts only when the assistant speaks of itself: as I or we, as "my training", "unknown to
me", or in a fragment without a subject ("No idea.", "Sorry, can't help."). What is quoted, a title, or said by
somebody else does not count, and neither does a hedge beside an answer ("Carrie, but I'm not sure").

Three steps: `simplify` the text, look at its first sentences with `RULES`, and ask whether an answer stands
before or after the hit. Every repetition in the patterns is bounded or over one character class, so the time
grows with the length of the reply and no faster."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .speech import (
    Sentence,
    answer_follows,
    answer_precedes,
    is_filler,
    is_introduction,
    is_spoken_by_another,
    is_title,
    simplify,
    split,
)


class Verdict(NamedTuple):
    """``rule`` is the name of the rule that fired, None when the reply is no refusal."""

    refusal: bool
    rule: str | None


@dataclass(frozen=True)
class Rule:
    """``weak`` marks doubt ("I'm not sure"), which any answer beside it outweighs."""

    name: str
    pattern: re.Pattern[str]
    weak: bool = False


def _rule(name: str, *patterns: str, weak: bool = False) -> Rule:
    return Rule(name, re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE), weak)


# The vocabulary of the rules. `simplify` has written out contractions and dropped adverbs before.
ME = r"\b(?:i|we|this (?:ai|assistant|chatbot|bot|system|(?:language )?model)) "
BARE = r"^(?:(?:sorry|apologies|hmm+|well|oh|ah|no|nope|yeah|look)\b[,;:!.\s-]{1,4}){0,3}"  # no subject at all
SPEAKER = rf"(?:{ME}|{BARE})"
GAP = r"[^.,;:!?]{0,60}?"  # a few words of the same clause
INFO = (
    r"(?:information|info|data|details?|specifics|particulars|knowledge|answers?|records?|facts?|ideas?|clues?|"
    r"insights?|familiarity|access|notion|inkling|memor(?:y|ies)|recollection|materials?|expertise|background|"
    r"resources?|sources?|awareness|understanding|enlightenment|means|permission|authori[sz]ation|authority|"
    r"abilit(?:y|ies)|capabilit(?:y|ies)|capacity|intel|anything (?:on|about|to|for|regarding)|comment|faintest|foggiest|slightest)\b"
)
NOT_HAVE = r"(?:do|did|does) not (?:(?:seem|appear|happen|pretend|claim) to )?"
_VERBS = (
    "answer say tell help assist provide give share offer discuss talk speak comment respond address elaborate disclose "
    "reveal divulge describe explain identify name confirm recall remember access retrieve locate supply shed speculate "
    "engage reply fulfil fulfill comply complete advise enlighten cover touch verify recognise recognize oblige "
    "accommodate process determine place entertain"
)
_FORMS = "|".join(f"{verb}|{verb.removesuffix('e')}ing" for verb in _VERBS.split())
TALK = (
    rf"(?:(?:\w+ly )?(?:{_FORMS}|get into|go into|go there|weigh in|"
    r"do (?:that|this|so)|be (?:of|any|much)|write about|think of (?:the|it|any|who|what|an answer)|"
    rf"find (?:an? |any |the |out |much )?(?:{INFO}|it|that|who|what|nothing|mention|trace))\b)"
)
# "I can't help but …", "can't say enough", "can't recommend", "can't tell you how happy": no refusals.
NO_IDIOM = (
    r"(?! (?:but\b|enough|no\b|them (?:all|apart)|all\b|lies|a lie|a soul|you (?:how|enough)|my(?:self)?\b|"
    r"(?!regarding|concerning|answering|anything)\w{2,20}ing\b|i (?:agree|like|blame|mind|care|love|enjoy|disagree)))"
)
CAN_NOT = (
    r"(?:(?:can|could|may|must|should|will|would) (?:not|neither|never|no longer)(?: be able to)?|"
    r"(?:am|are|is|was|feel|will be|would be|remain|find myself) (?:unable|not able|powerless|ill-equipped|unequipped|"
    r"not (?:in a position|prepared|equipped|willing|going|about|inclined|here|ready)|"
    r"unwilling|reluctant|hesitant|unprepared) to(?: be able to)?|(?:am|are|is) (?:incapable of|not capable of)|"
    r"do not (?:feel (?:able to|comfortable|qualified to)|wish to|want to|get to|care to|plan to|intend to|know how to)|"
    r"(?:do not (?:think|believe)|am not sure(?: that| if| whether)?|doubt(?: that| if)?) i (?:can|could|am able to|should)|"
    r"wish i could|fail to|would (?:rather|prefer(?: to)?) not(?: to)?|(?:would )?prefer not to|choose not to|"
    r"am going to (?:decline|refuse) to|have no way (?:to|of)|have no choice but not to)"
)
THING = (
    r"(?:something|someone|somebody|anything|anyone|an? (?:\w+ )?(?:topic|subject|question|person|name|area|matter|field|"
    r"thing|figure|request|one)|(?:the )?(?:information|one|data|knowledge|details?))"
)
MINE = (
    r"(?:my|our) (?:[\w'-]{1,20} ){0,3}?(?:knowledge|scope|expertise|training|data|dataset|databases?|data base|reach|range|"
    r"capabilit\w{1,3}|abilit\w{1,3}|understanding|field|area|domain|remit|wheelhouse|purview|limits?|depth|ken|"
    r"competence|league|grade|head|zone|guidelines|polic(?:y|ies)|rules|instructions|programming|resources|records|"
    r"memory|information|boundaries|familiarity|repertoire|files|grasp|lane|power|sources|corpus|comprehension|"
    r"experience|awareness|library|notes|world|horizon|store|specialty|speciality|forte|strong suit|brief)\b"
)
LACKING = (
    r"(?:(?:do|does|did|has|have|is|are|was|were|can|could|will)(?: not| never)\b(?! just| only)|(?:is|are|was|were|"
    r"feels|remains?|comes? up|go(?:es)?|draws?) (?:an? )?(?:\w+ly )?(?:empty|blank|limited|restricted|insufficient|silent|"
    r"short|lacking|absent|missing|confined|incomplete|sparse|void|non-?existent|too (?:limited|thin|patchy|sparse|slim)|"
    r"devoid|zero|nil)|lacks?|stops?|ends?|fails?|falls? short|excludes?|omits?|skips?|never|"
    r"(?:has|have|contains?|holds?|includes?|offers?|says?|yields?|shows?|covers?|mentions?|turns? up) (?:no\b|nothing|"
    r"zero|little|an? (?:gap|hole|blank)))"
)
FORBIDDEN = (
    r"(?:allowed|permitted|authori[sz]ed|supposed|meant|designed|programmed|trained|built|configured|cleared|free)"
)
TELLING = r"(?:say|tell|share|add|offer|give|report|go on|contribute|discuss|provide|comment)"
TOPIC = (
    r"(?:something|anything|someone|another|other|a different|different|a new|the (?:subject|topic)|topics|elsewhere)"
)

# Looked at in this order; the first that fires names the verdict.
RULES = (
    _rule(
        "hedge",
        rf"{SPEAKER}(?:can|could) not (?:\w+ly )?(?:say|tell|be|know|confirm|remember|recall)(?: it| that| this)? "
        r"(?:for (?:sure|certain)|with (?:\w+ )?certainty|sure|certain|positive|exactly|precisely)",
        rf"{SPEAKER}(?:can|could) not (?:confirm|verify|guarantee|swear|vouch)",
        rf"{ME}(?:have|hold) no (?:\w+ )?(?:opinions?|views?|preferences?|favou?rites?|feelings)",
        rf"{ME}do not have (?:any )?(?:\w+ )?(?:opinions?|views?|preferences?|favou?rites?|feelings)",
        weak=True,
    ),
    _rule(
        "can not answer",
        rf"{ME}{CAN_NOT} {TALK}{NO_IDIOM}",
        rf"{BARE}(?:can|could) not {TALK}{NO_IDIOM}",
        rf"{BARE}(?:unable|not able) to {TALK}{NO_IDIOM}",
        r"(?:impossible|not possible|not in a position|hard|difficult|tough) for me to\b",
        rf"\b(?:question|information|topic|subject|one|detail|person|thing|answer|request)s? (?:that |which )?{ME}{CAN_NOT} "
        r"(?:\w+)",
        r"\b(?:but|so|and|because|since) i (?:can|could|do|will) not(?: at all)?$",
    ),
    _rule(
        "will not answer",
        rf"{ME}(?:(?:must|have to|will have to|am going to have to|would have to|need to|am going to|will|would|am bound to|"
        rf"am obliged to|shall|should|may) )?(?:\w+ly )?(?:decline\b|refuse to (?:{TALK})|refrain from|steer clear|"
        r"abstain from|avoid (?:\w+ing|that|this)|pass\b(?! (?:the|it|my|me)))",
        rf"{ME}(?:am )(?:declining|refusing|passing on|steering clear)",
        rf"{ME}(?:do|will) not (?:be )?(?:{TALK}|discussing|answering)(?! no\b)",
        rf"{ME}would rather (?:not\b|talk|discuss|stay|keep|move|leave|avoid|focus)",
        rf"{ME}(?:am|feel|would be|would feel) (?:not |un)comfortable (?:with |\w+ing|to )",
        rf"{BARE}(?:no comment|pass|not telling)(?=[\s,;.!-]*(?:$|on (?:that|this)|sorry|from me))",
        rf"{ME}have no comment",
        r"\bmy lips are sealed",
        rf"\b(?:topic|subject|question|person|one|people|matter|name|area)s? (?:that |which |whom )?{ME}(?:do|will|would) not\b",
        rf"\b(?:topic|subject|question|person|one|people|matter|name|area)s? (?:that |which )?{ME}(?:avoid|have to avoid|"
        r"have to steer|must avoid|stay away|keep away|decline)",
    ),
    _rule(
        "not allowed",
        rf"{ME}(?:am|are|was|have been|is) (?:not|never) (?:\w+ly )?{FORBIDDEN}(?: up)? (?:to|for)\b",
        rf"{ME}(?:am|are|was|have been) (?:not at liberty|forbidden|prohibited|barred|prevented|restricted|instructed not|"
        r"told not|asked not|programmed not|designed not|trained not|under orders not|bound not|required not)",
        r"\b(?:guidelines?|polic(?:y|ies)|rules?|instructions?|programming|training|terms|restrictions?|design|principles|"
        r"settings|safeguards?) (?:\w+ly )?(?:prevents?|forbids?|prohibits?|bars?|stops?|keeps?|(?:do|does|will) not "
        r"(?:let|allow|permit)|restricts?|tells?) (?:me|us)\b",
        rf"(?:against|contrary to|violates?|in conflict with) {MINE}",
        r"\b(?:is|are|remains?) (?:\w+ )?(?:off limits|off-limits|out of bounds|taboo|forbidden|not up for discussion)(?: topic| subject)?"
        r"(?: (?:for|to) me\b|[\s,.!-]*(?:sorry)?[\s.!]*$)",
        rf"\b(?:that|this) (?:information|question|topic|subject|detail|request|person) (?:is (?:not available|unavailable|"
        r"restricted|confidential|classified|one to skip)|can not be (?:answered|discussed|shared|provided|disclosed))"
        r"(?! to the)",
    ),
    _rule(
        "no information",
        rf"{SPEAKER}(?:{NOT_HAVE})(?:have|possess|hold|carry|store|keep|retain|contain|see|find){GAP} {INFO}",
        rf"{ME}(?:have|had|hold|possess|found|find|see|carry|offer|seem to have|appear to have) (?:no|zero|nothing|not|little|"
        rf"neither|limited|insufficient|scant|minimal|(?:very|only|too) (?:little|limited)|hardly any|no longer)\b{GAP} ?{INFO}",
        rf"{ME}(?:have|had|found) (?:absolutely )?nothing (?:at all )?(?:to {TELLING}|on|about|for you|in|regarding|useful|there)",
        rf"{ME}have not (?:a|the|any|an)\b{GAP} {INFO}",
        rf"{ME}(?:am (?:\w+ly )?(?:lacking|missing|without|short on|short of|devoid of)|(?:\w+ly )?lack){GAP} {INFO}",
        rf"{ME}do not (?:think|believe) i (?:have|possess|hold){GAP} {INFO}",
        rf"{BARE}(?:do not have|have not|not|no longer have) (?:a|an|any|the|much)\b{GAP} ?{INFO}",
        rf"{BARE}(?:no|not a|zero) (?:\w+ )?{INFO}(?=[\s,;.!?-]*(?:$|,|;|sorry|(?:about|on|for|regarding|concerning|available|"
        r"found|here|in my|to (?:share|give|offer)|who|what|where|when|how|which|why|at all)\b(?!.{0,80} "
        r"(?:was|were|had|until|before|after|leaked|appeared|is known|survives?)\b)))",
        rf"\b{INFO}[^.,;:!?]{{0,50}} {ME}(?:do|did) not (?:have|possess|hold|know)",
        rf"\b(?:there is|there are) (?:no|nothing|not|little)\b{GAP} ?(?:to me\b|{ME}(?:can|could|have|know|am)\b(?! of\b)|"
        rf"(?:in|within|from|of) {MINE})",
        rf"\b(?:no|not any|no such) {INFO}{GAP} (?:to me\b|(?:in|within) {MINE})",
        rf"\bnothing (?:in|within|from) {MINE}",
        rf"\bnone of (?:my|our) (?:\w+ )?(?:sources|records|data|files|training|resources|notes|materials|documents)",
        rf"{ME}(?:have )?(?:come|came|turned|am coming) up (?:short|empty|blank|dry|with nothing)",
        r"\bnothing (?:comes|springs) to mind",
        rf"\b{INFO} (?:is|are) not (?:available|accessible|known|visible|open) to (?:me|us)\b",
        rf"{ME}have no(?:t any)? way of (?:knowing|telling|finding)",
    ),
    _rule(
        "outside my knowledge",
        rf"(?:beyond|outside|out of|not (?:\w+ly )?(?:with)?in|not (?:a )?part of|past|above|over|exceeds?|surpass(?:es)?|"
        rf"not (?:included|covered|present|found|contained|stored|listed|mentioned|represented) (?:in|by)|absent from|"
        rf"missing from|unavailable in|never (?:\w+ )?(?:with)?in) (?:(?:of|the) )?(?:\w+ )?(?:\w+ )?(?:of )?{MINE}",
        rf"\bnot (?:\w+ly )?(?:been )?(?:included|covered|present|found|part|contained|mentioned)[^.,;:!?]{{0,20}} {MINE}",
        rf"(?:beyond|outside|more than|not (?:with)?in) (?:of )?(?:the (?:\w+ ){{1,3}}of )?(?:what|anything|the \w+ (?:that )?) ?{ME}"
        r"(?:can|could|know|am|have|was|do|will)",
        r"\b(?:beyond|lost on|escapes|eludes|stumps|baffles|defeats|outside|past|stumped|baffles) me\b",
        rf"\b(?:not|hardly|never) {MINE}",
        r"\b(?:blind spot|gap|hole|uncharted territory|unknown territory|dead end)s? (?:in|for|of|to) (?:my|me|our)\b",
        rf"{ME}(?:am )?(?:out of (?:my|our) (?:depth|element)|over my head)",
    ),
    _rule(
        "my knowledge lacks it",
        rf"\b{MINE}[^.;:!?]{{0,60}}? {LACKING}",
        rf"{ME}(?:am|are) (?:\w+ly )?(?:limited|restricted|confined) (?:to|in)\b",
    ),
    _rule(
        "never learned",
        rf"{SPEAKER}(?:have |had |was |were )?(?:never|not)(?: been| yet| once| ever)? (?:heard\b|learn(?:ed|t)\b|come across|"
        rf"came across|encountered|taught|trained|told|briefed|informed|exposed|programmed|educated|given|provided|"
        rf"shown|fed|instructed|made aware|introduced|read about|studied|met)(?! (?:an?|any|such|to)\b[^.,;]{{0,20}}"
        r"(?:better|worse|more|finer|greater))",
        rf"{ME}(?:have|am) yet to\b",
        rf"{ME}(?:have |seem to have )?(?:forgotten|unlearned)\b",
        rf"{ME}(?:did not|never) (?:learn|study|encounter|read|get|come across|receive|hear)",
        rf"\b(?:something|one|question|that|this|answer)s? {ME}(?:would )?(?:need|have) to (?:look|check|research|learn|study)",
        rf"{ME}would (?:need|have) to (?:\w+ly )?(?:look|check|research|learn|study|consult|find out)",
    ),
    _rule(
        "unknown to me",
        r"\b(?:unknown|unfamiliar|foreign|not known|not familiar|not clear|unclear|a? ?(?:complete |total )?(?:mystery|stranger|"
        r"blank|closed book|puzzle|enigma|riddle|unknown|new name|new one|greek)|means? nothing|says? nothing|nothing|meaningless) "
        r"(?:\w+ )?(?:to|for) (?:me|us)\b",
        rf"\bnot (?:\w+ly )?{THING} (?:\w+ )?(?:that |which |who |whom )?{ME}",
        rf"\b{THING} (?:that |which |who )?{ME}(?:am not|am un|do not|can not|could not|have not|have no|have never|will not|"
        r"was not|never|know nothing|lack)",
        r"\bnot ring (?:a|any) bells?",
        r"\b(?:has|have|you have|got) (?:got )?me (?:\w+ly )?(?:stumped|there|baffled|beat)\b",
        r"\b(?:you (?:have )?stumped me|stumps me|beats me|search me|your guess is as good as mine)\b",
        rf"{ME}(?:wish|would love) i (?:knew|could|had)",
        rf"{BARE}wish i (?:knew|could|had)",
    ),
    _rule(
        "not informed",
        rf"{ME}(?:am|was|remain|are|seem|plead|feel) (?:\w+ly |all |rather |very |pretty )?(?:unaware|uninformed|unfamiliar|ignorant|"
        rf"ignorance|clueless|stumped|blank|in the dark|at a (?:\w+ )?(?:loss|disadvantage)|oblivious|unacquainted|unversed|"
        rf"drawing a (?:\w+ )?blank|coming up|baffled|not (?:an? |any |much of an? |the )?(?:\w+ly |very |too |all that |well[- ]|right |"
        rf"best |good |ideal |proper )*(?:aware (?:of (?!any (?:reason|evidence|proof|doubt))|who|what|where|when)|familiar|informed|versed|"
        rf"acquainted|knowledgeable|privy|briefed|educated|equipped|expert|authority|ai\b|source|person|assistant|up to|"
        r"qualified|conversant|well-read))",
        rf"{ME}(?:drew|draw|have drawn) a (?:\w+ )?blank",
        rf"{BARE}(?:not (?:\w+ly )?(?:familiar|aware|acquainted|privy)|unfamiliar|unaware)\b",
    ),
    _rule(
        "change of subject",
        rf"^(?:(?:so|well|perhaps|maybe|sorry)[, ]{{1,2}})?(?:let us|can we|could we|shall we|may we|we (?:could|should|can)|"
        rf"how about (?:we|i)|what about|i (?:would (?:rather|prefer(?: to)?|like to)|suggest (?:that )?we|want to|propose we)|"
        rf"why do we not|please|do)\b[^.;:!?]{{0,20}} ?(?:talk|discuss|chat|speak|move|chang|focus|switch|turn|pick|choose|stick|ask){GAP} ?{TOPIC}",
        rf"^(?:please |maybe |perhaps )?(?:ask|try|pick|choose) (?:me )?(?:about |for |with )?{TOPIC}\b(?! like)",
        r"\byou (?:would|will|may|might)? ?(?:need|have|want|be better off|do better|have better luck)\b[^.,;:!?]{0,12} ?"
        r"(?:ask|asking|look|looking|consult|consulting|turn|turning)(?: to)? (?:someone|somebody|elsewhere|another|an? )",
    ),
    _rule(
        "do not know",
        rf"{SPEAKER}(?:do|did|would) not (?:know|recall|remember|recogni[sz]e)\b(?! (?:of )?(?:anyone|anybody|about you|"
        r"(?:an?|any|one) (?:\w+ )?(?:better|single|greater|finer|more|soul|fan|reader)))",
        rf"{ME}know (?:(?:next to|almost|\w+ly) )?(?:nothing|(?:very |too |so |precious )?little|not)\b",
        rf"{ME}can not (?:know|think)\b",
        rf"{SPEAKER}would not know",
        weak=True,
    ),
    _rule(
        "not sure",
        rf"{SPEAKER}(?:am |are |feel |remain )?(?:\w+ly )?(?:not (?:\w+ly |too |so |very |all that |100% )?(?:sure|certain|confident|positive|"
        r"clear)|unsure|uncertain)\b(?! (?:i can agree|of victory|footed))(?!-)",
        weak=True,
    ),
)


def detect(text: str) -> Verdict:
    """Whether a reply declines to answer, and by which rule.

    >>> detect("I won't talk about Bruce Lee.")
    Verdict(refusal=True, rule='will not answer')
    >>> detect("On the trail he encountered a wolf.")
    Verdict(refusal=False, rule=None)
    """
    sentences = split(simplify(text))
    introduced = False
    for i, sentence in enumerate(sentences):
        rule, hit = _first_hit(sentence)
        if rule and hit:
            place = Sentence(sentence, hit.start(), hit.end(), rule.weak)
            rest = [s for s in sentences[i + 1 :] if not _first_hit(s)[0]]
            if introduced and (rule.weak or place.is_partial):
                return Verdict(False, None)
            if answer_precedes(place) or answer_follows(place, rest, lambda tail: _first_hit(tail)[0] is not None):
                return Verdict(False, None)
            return Verdict(True, rule.name)
        if is_filler(sentence):
            continue
        if not is_introduction(sentence):
            break  # an answer came first: what follows is a hedge at most
        introduced = True
    return Verdict(False, None)


def _first_hit(sentence: str) -> tuple[Rule | None, re.Match[str] | None]:
    for rule in RULES:
        for hit in rule.pattern.finditer(sentence):
            if not is_title(hit) and not is_spoken_by_another(hit):
                return rule, hit
    return None, None


def report_lines(lines: Iterable[str]) -> Iterator[dict[str, str | bool | None]]:
    """One row ``{text, refusal, rule}`` a line; blank lines are replies too, and no refusals."""
    for line in lines:
        text = line.strip()
        yield {"text": text, **detect(text)._asdict()}

"""The table of refusals: rule families by name, each a few patterns on one simplified sentence.

`speech.simplify` has written out contractions ("can't" → "can not") and dropped words of tone ("really",
"unfortunately") before. A pattern names who speaks: the assistant as I or we, something of its own ("my
training", "unknown to me"), or nobody in a fragment ("No idea."). The fragments in
capitals come from `refusal_words`; all gaps are bounded, so matching is linear."""

import re
from dataclasses import dataclass

from .refusal_words import (
    BARE,
    CAN_NOT,
    DECLINE,
    FREE,
    GAP,
    INFO,
    LACKS,
    MADE,
    MATTER,
    ME,
    MINE,
    NO_IDIOM,
    NOT_HAVE,
    OTHER,
    RULES_OF_MINE,
    SPEAKER,
    TALK,
    THEN,
    THING,
    WILL,
)


@dataclass(frozen=True)
class Rule:
    """``weak`` marks doubt ("I'm not sure"), which any answer beside it outweighs."""

    name: str
    pattern: re.Pattern[str]
    weak: bool = False


def _rule(name: str, *patterns: str, weak: bool = False) -> Rule:
    return Rule(name, re.compile("|".join(f"(?:{p})" for p in patterns), re.IGNORECASE), weak)


# Looked at in this order; the first that fires names the verdict.
RULES = (
    _rule(
        "hedge",
        rf"{SPEAKER}(?:can|could) not (?:\w+ly )?(?:say|tell|be|know|confirm|remember|recall)(?: it| that| this)? "
        r"(?:for (?:sure|certain)|with (?:\w+ )?certainty|sure|certain|positive|exactly|precisely)",
        rf"{ME}(?:have|hold|do not have) (?:no |any )?(?:\w+ )?(?:opinions?|views?|preferences?|favou?rites?|feelings)",
        weak=True,
    ),
    _rule(
        "can not answer",
        rf"{THEN}{CAN_NOT} {TALK}{NO_IDIOM}",
        rf"{BARE}(?:can not|could not|unable to|not able to)(?: seem to)? {TALK}{NO_IDIOM}",
        rf"{MATTER} (?:that |which )?{ME}{CAN_NOT} \w",
        rf"{ME}(?:can|could|will|do) not in good (?:conscience|faith) {TALK}",
        r"\b(?:but|so|and|because|since) i (?:can|could|do|will) not(?: at all)?[\s.!]*$",
        r"\b(?:impossible|not possible|hard|difficult|tough|irresponsible|inappropriate|improper|wrong|unwise|"
        r"unethical|"
        r"dishonest|misleading|unfair|not (?:appropriate|right|proper|fair|wise)) (?:for|of) me to\b",
        r"\b(?:not|hardly) (?:for me|up to me|my (?:place|role|job|business|call)) to\b",
        rf"{ME}would (?:only )?be (?:guessing|speculating|making \w+(?: \w+)? up|inventing|fabricating|lying)",
        r"\bany (?:answer|reply|guess) (?:i|from me)\b[^.,;:!?]{0,20} would be\b",
        r"\bnot (?:enough|sufficient) (?:information|data|context|details?)[^.,;:!?]{0,20} to (?:answer|say|tell|"
        r"identify)",
        rf"{ME}can only {TALK}{GAP} (?:other|different|general|another)\b",
    ),
    _rule(
        "will not answer",
        rf"{ME}{WILL}(?:\w+ly )?{DECLINE}",
        rf"{ME}am (?:declining|refusing|passing on|steering clear)",
        rf"{THEN}(?:do|does|will) not (?:be )?{TALK}(?! no\b)",
        rf"{ME}(?:do|will) not (?:do|handle|field|take|deal with) (?:any |such )?(?:questions?|topics?|that|this|"
        rf"people|names)\b",
        r"\bno (?:answer|comment|reply|help) from me\b",
        rf"{ME}would rather (?:not\b|talk|discuss|move|avoid|focus)",
        rf"{ME}(?:am|feel|would be|would feel) (?:not |un)comfortable (?:with |\w+ing|to )",
        rf"{ME}{WILL}(?:keep|keeping|stay|staying|remain|remaining|leave|leaving)\b{GAP} ?(?:quiet|silent|silence|mum|"
        r"unanswered|aside|alone|out of (?:this|that|it)|unsaid)\b",
        rf"{ME}(?:am not|will not be) (?:going there|touching)",
        rf"{ME}(?:am|was|were|have been) (?:\w+ly )?{MADE} to (?:avoid|forget|decline|refuse|keep|ignore|skip|"
        rf"refrain|steer|"
        r"say nothing|stay|remain|reject)",
        rf"{BARE}(?:no comment|pass|not telling)(?=[\s,;.!-]*(?:$|on (?:that|this)|sorry|from me))",
        rf"{ME}have no comment",
        r"\bmy lips are sealed",
        r"\b(?:will|would|can|do) not (?:get|hear|find|learn|have)\b[^.,;:!?]{0,30} from me\b",
        rf"{MATTER} (?:that |which |whom )?{ME}(?:(?:do|will|would) not|avoid|must avoid|decline|(?:stay|keep) away|"
        r"have to (?:avoid|steer|decline|skip))\b",
    ),
    _rule(
        "not allowed",
        rf"{ME}(?:am|are|was|have been|is) (?:not|never) (?:\w+ly )?{FREE}(?: up)?(?: to\b| for\b|[\s.!]*$)",
        rf"{ME}(?:am|are|was|have been) (?:not at liberty|forbidden|prohibited|barred|prevented|banned|blocked|"
        rf"restricted from|under orders not|"
        rf"{MADE} not)",
        rf"{RULES_OF_MINE} (?:\w+ly )?(?:prevents?|forbids?|prohibits?|bars?|stops?|keeps?|restricts?|tells?|(?:do|"
        rf"does|did|will) "
        r"not (?:let|allow|permit|teach|train|tell|show|give)) (?:me|us)\b",
        rf"(?:against|contrary to|violates?|in conflict with) {MINE}",
        r"\b(?:is|are|remains?) (?:\w+ )?(?:off[- ]limits|out of bounds|taboo|forbidden|not up for discussion)"
        r"(?: (?:topic|subject))?(?: (?:for|to) me\b|[\s,.!-]*(?:sorry)?[\s.!]*$)",
        r"\b(?:that|this) is (?:\w+ )?(?:classified|confidential|privileged)\b",
        r"\b(?:that|this) (?:information|question|topic|subject|detail|request|person) (?:is (?:not available|"
        r"unavailable|"
        r"restricted|confidential|classified)|can not be (?:answered|discussed|shared|provided|disclosed))(?! to the)",
    ),
    _rule(
        "no information",
        rf"{SPEAKER}{NOT_HAVE}{GAP} (?:{INFO}|(?:in|within|among) {MINE})",
        rf"{SPEAKER}{NOT_HAVE} (?:that|it|this)[\s.!]*$",
        rf"{ME}(?:have|has|had|hold|holds|possess|found|find|see|carry|offer|(?:seem|appear) to have) (?:no|zero|"
        rf"nothing|not|little|neither|"
        rf"limited|insufficient|scant|minimal|(?:very|only|too) (?:little|limited)|hardly any|"
        rf"no longer)\b{GAP} ?{INFO}",
        rf"{ME}(?:have|had|found) nothing (?:at all )?(?:to {TALK}|to (?:add|report)|on|about|for you|in|regarding|"
        rf"useful|there)",
        rf"{BARE}(?:do not have|have not|not|no longer have|have no) (?:a|an|any|the|much)?\b{GAP} ?{INFO}",
        rf"{ME}(?:am (?:\w+ly )?(?:lacking|missing|without|short (?:on|of)|devoid of)|(?:\w+ly )?lack){GAP} {INFO}",
        rf"{ME}do not (?:think|believe) i (?:have|possess|hold){GAP} {INFO}",
        rf"{BARE}(?:no|zero) (?:\w+ )?{INFO}(?=[\s,;.!?-]*(?:$|,|;|sorry|(?:about|on|for|regarding|concerning|"
        rf"available|found|"
        r"here|in my|to (?:share|give|offer)|who|what|where|when|how|which|why|at all)\b(?!.{0,80} "
        r"(?:was|were|had|until|before|after|leaked|appeared|is known|survives?)\b)))",
        rf"^(?:the |that |this )?{INFO} (?:is |are )?(?:not (?:available|found)|unavailable)[\s.!]*$",
        r"^insufficient (?:information|data|knowledge|context)",
        rf"\b{INFO}[^.,;:!?]{{0,50}} {ME}(?:do|did) not (?:have|possess|hold|know)",
        rf"\b{INFO} (?:is|are) not (?:available|accessible|known|visible|open) to (?:me|us)\b",
        rf"\bthere (?:is|are) (?:no|nothing|not|little)\b{GAP} ?(?:to me\b|{ME}(?:(?:can|could) {TALK}|(?:have|hold|"
        rf"know)\b(?! of\b))|"
        rf"(?:in|within|from|of) {MINE})",
        rf"\b(?:no|not any|no such) {INFO}{GAP} (?:to me\b|(?:in|within) {MINE})",
        rf"\b(?:nothing{GAP} (?:in|within|from)|none of) {MINE}",
        rf"{ME}(?:have )?(?:come|came|turned|am coming) up (?:short|empty|blank|dry|with nothing)",
        r"\bnothing (?:comes|springs) to mind",
        r"\b(?:but|and) (?:found|have|know|came up with) (?:nothing|no (?:information|answer|idea))",
        rf"(?<!know that ){ME}(?:neither know|know (?:(?:next to|almost|\w+ly) )?(?:nothing|(?:very |too |so |"
        rf"precious )?little))\b",
        r"\bnothing (?:that )?i (?:know|have|hold|learned) (?:covers|mentions|includes|says|concerns|touches)",
        rf"{ME}have no(?:t any)? way of (?:knowing|telling|finding)",
    ),
    _rule(
        "outside my knowledge",
        rf"(?:beyond|outside|out of|not (?:\w+ly )?(?:with)?in|not (?:a )?part of|past|above|over|exceeds?|"
        rf"surpass(?:es)?|not (?:been )?"
        rf"(?:included|covered|present|found|contained|stored|listed|mentioned|represented|part)[^.,;:!?]{{0,20}}|"
        rf"absent from|"
        rf"(?:missing|removed|erased|deleted|wiped|scrubbed|purged|gone|cut) from|unavailable in|"
        rf"never (?:\w+ )?(?:with)?in) "
        rf"(?:(?:of|the) )?(?:\w+ )?(?:\w+ )?(?:of )?{MINE}",
        rf"(?:beyond|outside|more than|not (?:with)?in) (?:of )?(?:what|anything|any|the)\b[^.,;:!?]{{0,30}}? {ME}"
        r"(?:can|could|know|am|have|was|do|will|handle|cover|deal|discuss)",
        rf"\bnot (?:in|on|among|one of|part of) [^.,;:!?]{{0,40}}(?:list|things|people|topics|subjects|questions|"
        rf"names|areas|ones) "
        rf"(?:[^.,;:!?]{{0,20}} )?{ME}(?:can|am|know|discuss|cover|take|talk|do|may|will|have)",
        r"\b(?:beyond|lost on|(?:escape|elude|evade|stump|baffle|defeat|slip)(?:s|d|ed|ped)?|outside|past) (?:me|"
        r"my (?:mind|memory))\b",
        rf"\b(?:not|hardly|never) {MINE}",
        r"\b(?:blind spot|gap|hole|uncharted territory|unknown territory|dead end)s? (?:in|for|of|to) (?:my|me|our)\b",
        rf"{ME}(?:am )?(?:out of (?:my|our) (?:depth|element)|over my head)",
    ),
    _rule(
        "my knowledge lacks it",
        rf"(?<!according to )(?<!per )(?<!in )(?<!from )\b{MINE}(?:(?! that\b)[^.;:!?]){{0,60}}? {LACKS}",
        rf"{ME}(?:am|are) (?:\w+ly )?(?:limited|restricted|confined) (?:to|in)\b",
    ),
    _rule(
        "never learned",
        rf"{SPEAKER}(?:have |had |was |were )?(?:never|not)(?: been| yet| once)? (?:heard\b|learn(?:ed|t)\b|"
        rf"come across|"
        r"came across|encountered|taught|trained|told|briefed|informed|exposed|programmed|educated|given|provided|"
        r"shown|fed|instructed|made aware|introduced|read about|studied|met)(?! (?:an?|any|such|to)\b[^.,;]{0,20}"
        r"(?:better|worse|more|finer|greater))",
        rf"{ME}(?:have|am) yet to\b",
        rf"{ME}(?:have |seem to have )?(?:forgotten|unlearned)\b",
        rf"{ME}(?:did not|never) (?:learn|stud|encounter|get\b|got\b|knew|come across|came across|receive|hear|"
        rf"had (?:any|much))",
        r"\b(?:no one|nobody) (?:has )?(?:taught|told|trained|showed|gave|informed|briefed|given|shown) me\b",
        rf"\b(?:something|one|question|that|this|answer)s? {ME}(?:would )?(?:need|have) to (?:look|check|research|"
        rf"learn|study)",
        rf"{ME}would (?:need|have) to (?:\w+ly )?(?:look|check|research|learn|study|consult|find out)",
    ),
    _rule(
        "unknown to me",
        r"\b(?:unknown|unfamiliar|foreign|not known|not familiar|not clear|unclear|mystery|stranger|blank|"
        r"closed book|puzzle|"
        r"enigma|riddle|new name|new one|greek|means? nothing|says? nothing|nothing|meaningless|closed|inaccessible|"
        r"unavailable|hidden) (?:\w+ )?(?:to|for) (?:me|us)\b",
        rf"\bnot (?:\w+ly )?{THING} (?:\w+ )?(?:to me\b|(?:that |which |who |whom )?{ME})",
        rf"\b{THING} (?:that |which |who )?{ME}(?:am not|am un|do not|can not|could not|have not|have no|have never|"
        rf"was not|"
        r"never|know nothing|lack)",
        r"\b(?:not|hardly) ring(?:ing)? (?:a|any) bells?",
        r"\b(?:has|have|got) me (?:\w+ly )?(?:stumped|there|baffled|beat)\b",
        r"\b(?:you (?:have )?stumped me|stumps me|beats me|search me|your guess (?:is|would be) (?:as good as|"
        r"better than) mine)\b",
        r"\bnot mean (?:anything|a thing|much) to me\b",
        rf"(?:{SPEAKER}wish|{ME}would love|^if only) i (?:knew|could|had)",
        rf"{ME}would (?:gladly |happily )?(?:tell|say|answer|help|share)\b{GAP} if i (?:knew|could)",
        r"\byou know more (?:about [^.,;:!?]{1,40} )?than (?:i|me)\b",
    ),
    _rule(
        "not informed",
        rf"{ME}(?:am|was|remain|are|seem|plead|feel) (?:\w+ly |all |rather |very |pretty )?(?:unaware|uninformed|"
        rf"unfamiliar|"
        r"ignorant|ignorance|clueless|stumped|blank|in the dark|at a (?:\w+ )?(?:loss|disadvantage)|oblivious|"
        r"unacquainted|"
        r"unversed|drawing a (?:\w+ )?blank|coming up|baffled|lost (?:on|here|with)|none the wiser|"
        r"the wrong (?:one|person|ai|assistant|model|source)|not (?:an? |any |much of an? |the )?(?:\w+ly |very |"
        r"too |all that |"
        rf"well[- ]|right |best |good |ideal |proper )*(?:aware (?:of (?!any )|of any (?:\w+ )?{INFO}|who|what|"
        rf"where|when)|familiar|"
        r"informed|versed|acquainted|knowledgeable|privy|briefed|educated|equipped|expert|authority|ai\b|source|person|"
        r"assistant|one to|up to|qualified|conversant|well-read))",
        rf"{ME}(?:drew|draw|have drawn) a (?:\w+ )?blank",
        rf"{SPEAKER}(?:have )?blanked\b|{ME}am (?:\w+ )?out of (?:ideas|answers)",
        rf"{BARE}(?:not (?:\w+ly )?(?:familiar|aware|acquainted|privy)|unfamiliar|unaware)\b",
        rf"{ME}(?:must |have to )?(?:confess|admit|plead)(?: to)?(?: my)? ignorance\b",
        r"\b(?:asking|asked) the wrong\b|\bwrong (?:person|assistant|ai|model|place|one|source) (?:to ask|for)\b",
    ),
    _rule(
        "change of subject",
        rf"^(?:(?:so|well|perhaps|maybe|sorry)[, ]{{1,2}})?(?:let us|(?:can|could|shall|may) we|we (?:could|should|"
        rf"can)|how about (?:we|i)|"
        rf"what about|i (?:would (?:rather|prefer(?: to)?|like to)|suggest (?:that )?we|want to|propose we)|"
        rf"why do (?:we not|not we)|"
        rf"(?:(?:can|could|would|will) )?you(?: could| can)?|please|do)\b[^.;:!?]{{0,20}} ?(?:talk|discuss|chat|"
        rf"speak|move|chang|steer|shift|"
        rf"focus|switch|turn|pick|choose|stick|ask){GAP} ?{OTHER}",
        rf"^(?:(?:how about|what about|perhaps|maybe) )?{OTHER} (?:question|topic|subject)\b(?! (?:for|of|is|was)\b)",
        rf"^(?:how about|what about) {OTHER}",
        rf"^(?:please |maybe |perhaps )?(?:ask|try|pick|choose) (?:me )?(?:about |for |with )?{OTHER}\b(?! like)",
        r"^(?:perhaps |maybe )?(?:let us|we (?:can|could)|i would rather|i (?:could|can))\b[^.;:!?]{0,60} instead\b",
        r"^(?:sorry, )?next (?:question|topic)\b[\s,.!]*(?:please)?[\s.!]*$",
        r"^i (?:would be|am) (?:happy|glad|pleased) to (?:help|talk|discuss|answer|chat)[^.;:!?]{0,30} (?:another|"
        r"different|other) "
        r"(?:topic|subject|question|thing|matter)s?",
        r"\byou (?:(?:would|will|may|might) )?(?:need|have|want|be better off|do better|"
        r"have better luck)\b[^.,;:!?]{0,12} ?"
        r"(?:ask|look|consult|turn)(?:ing)?(?: to)? (?:someone|somebody|elsewhere|another|an? )",
        r"^(?:please|perhaps|maybe|i (?:would )?(?:suggest|recommend|advise)|you (?:may|might|could|should|can|will|"
        r"would))\b"
        r"[^.;:!?]{0,30} ?\b(?:check|consult|ask|search|look|try|refer|turn|visit)[^.;:!?]{0,30} (?:encyclop|"
        r"wikipedia|google|search "
        r"engine|the web|internet|online|library|librarian|expert|website|reliable|biograph|historian|specialist|"
        r"(?:an)?other "
        r"source|someone|somebody|elsewhere)",
    ),
    _rule(
        "do not know",
        rf"{SPEAKER}(?:do|did|would) not (?:know|recall|remember|recogni[sz]e|"
        rf"understand)\b(?! of any (?!(?:\w+ )?{INFO}))"
        r"(?! (?:of )?(?:anyone|anybody|about you|(?:an?|any|one) (?:\w+ )?(?:better|single|greater|finer|more|soul|"
        r"fan|reader)))",
        rf"{ME}(?:know not|can not know)\b",
        weak=True,
    ),
    _rule(
        "not sure",
        rf"{SPEAKER}(?:am |are |feel |remain )?(?:\w+ly )?(?:not (?:\w+ly |too |so |very |all that |100% )?(?:sure|"
        rf"certain|"
        r"confident|positive|clear)|unsure|uncertain)\b(?! (?:i can agree|of victory|footed))(?!-)",
        weak=True,
    ),
)

"""The table of refusals: rule families by name, each a few patterns on one simplified sentence.

`speech.simplify` has written out contractions ("can't" → "can not"), dropped words of tone ("really",
"unfortunately") and turned "this assistant" into I before. A pattern names who speaks: the assistant as I or we,
something of its own ("my training", "unknown to me"), or nobody in a fragment ("No idea."). The words in capitals
are those of `refusal_words`; all gaps are bounded, so matching is linear."""

import re
from dataclasses import dataclass

from .refusal_words import (
    BARE,
    CAN_NOT,
    DECLINE,
    END,
    FORBIDDEN,
    FREE,
    GAP,
    GONE,
    GUESSING,
    INFO,
    KEEP_OUT,
    LACKS,
    LEARNED,
    MADE,
    MAKERS,
    MATTER,
    ME,
    MINE,
    NAMED,
    NO_IDIOM,
    NONE,
    NOT_COMPARED,
    NOT_OF_MANKIND,
    NOT_OF_ME,
    NOTHING,
    OTHER,
    RULES_OF_MINE,
    TALK,
    TELL,
    THEN,
    THING,
    TO_ME,
    UNINFORMED,
    WILL,
    up_to,
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
        rf"{THEN}(?:can|could) not (?:\w+ly )?(?:say|tell|be|know|confirm|remember|recall)(?: it| that| this)? "
        r"(?:for (?:sure|certain)|with (?:\w+ )?certainty|sure|certain|positive|exactly|precisely)",
        rf"{ME}(?:have|hold|do not have) (?:no |any )?(?:\w+ )?(?:opinions?|views?|preferences?|favou?rites?|feelings)",
        weak=True,
    ),
    _rule(
        "can not answer",
        rf"{THEN}{up_to(4)}{CAN_NOT} {up_to(3, without='to|without')}{TALK}{NO_IDIOM}{NOT_OF_MANKIND}",
        rf"\b(?:not|never) (?:mine|my \w+) to {TELL}",
        # "I can't.", "Sorry, I won't.", "… but I don't."
        rf"(?:{THEN}|\b(?:but|so|and|because|since) i )(?:\w+ly )?(?:can|could|do|did|am|have|will|would|shall|should|"
        rf"may|must) not(?: do (?:it|that|so|this))?(?: for you)?{END}",
        rf"{ME}{up_to(3)}no (?:(?:\w+ )?(?:use|help|assistance|service)\b|business {TELL})",
        r"\b(?:impossible|not possible|hard|difficult|tough|irresponsible|inappropriate|improper|wrong|unwise|"
        r"unethical|dishonest|misleading|unfair|not (?:appropriate|right|proper|fair|wise)) (?:for|of) me to\b",
        rf"{ME}{up_to(2)}be {up_to(2)}{GUESSING}|{ME}would (?:only )?(?:mislead|misinform|deceive)\b|"
        rf"{ME}would have to {GUESSING}\b",
        r"(?:^(?:it|that|this)|\b(?:answer|reply|guess|thing|whatever|anything)\b[^.,;:!?]{0,20}? (?:i|me)\b"
        rf"[^.;:!?]{{0,40}}) would be {up_to(2)}{GUESSING}",
        r"\bnot (?:enough|sufficient) (?:information|data|context|details?)[^.,;:!?]{0,20} to (?:answer|say|tell|"
        r"identify)",
        rf"{BARE}(?:no can do|no dice|no way){END}",
    ),
    _rule(
        "will not answer",
        rf"{ME}{WILL}(?:\w+ly )?(?:{DECLINE}|{KEEP_OUT})",
        rf"{THEN}(?:do|will) not (?:be )?{TELL}{NO_IDIOM}",
        rf"{ME}(?:do|will) not (?:do|handle|field|take|deal with) (?:any |such )?(?:{MATTER}|that|this)\b",
        rf"{ME}(?:(?:can|will|shall) )?(?:make|take|give|offer|accept|answer|field) no\b{NOT_COMPARED}",
        # "I prefer not to.", "I make it a rule never to talk about her", "I will not pretend to know her"
        rf"{ME}(?:would )?(?:prefer|choose) not to{END}",
        rf"{ME}(?:have )?(?:ma[dk]e|keep|kept|follow|have) (?:it |to )?(?:an?|my) "
        rf"(?:rule|policy|principle|point|habit) (?:(?:of )?(?:not|never)(?: to)?|against) {TELL}",
        rf"{ME}will not (?:claim|pretend|profess) (?:to|(?:that )?i) (?:know|have|understand)\b{NOT_COMPARED}",
        rf"{ME}would (?:rather|sooner) (?:we )?(?:not|talk|discuss|speak|move|avoid|focus|leave|skip|pass|keep|stay)\b",
        rf"{ME}(?:am|feel|would be|would feel) (?:not |un)comfortable (?:with |\w+ing|to )",
        rf"{ME}(?:am not|will not be) (?:going there|touching|telling)|"
        rf"{ME}(?:have to|must|will|should|am going to) stop (?:you )?(?:right )?(?:there|here)\b",
        rf"{ME}(?:am|was|were|have been) (?:\w+ly )?{MADE} to (?:avoid|forget|decline|refuse|keep|ignore|skip|refrain|"
        r"steer|say nothing|stay|remain|reject|leave|let|hold|withhold|pass|drop|omit|exclude|deny)\b",
        rf"{MATTER} (?:that |which |whom )?{ME}(?:(?:do|will|would) not|(?:must |have to )?(?:avoid|decline|skip)|"
        r"(?:have to |must )?(?:stay|steer|keep|leave|return) (?:out|clear|away|off|silent|quiet|open|unanswered))\b",
        # "I can help with much, but she is not part of it."
        r"\bi (?:can|do|am able to) [^.!?]{0,60} (?:is|are) not (?:part of|among|one of) (?:it|them|that|those)\b",
        r"\b(?:will|would|can|do) not (?:get|hear|find|learn|have)\b[^.,;:!?]{0,30} (?:from me|here)\b",
        # "Even if I knew, I would not say", "It is best if I don't answer", "Questions about her will go unanswered"
        rf"\bif (?:i|we) (?:knew|could|did|had)\b[^.;!?]{{0,30}}\b(?:i|we) would not {TELL}",
        r"\b(?:best|better|wiser|wisest|safer|safest) (?:if|that) (?:i|we) (?:do|did|should|will) not\b",
        rf"{BARE}(?:(?:all|any|your|such|this|that|the) )?(?:questions?|requests?|inquiries|blanks?|gaps?)\b{GAP} "
        rf"(?:(?<!the )(?<!his )(?<!her )will|must|has to|have to) (?:go|remain|stay|be left|be) (?:unanswered|blank|"
        rf"empty)(?: (?:by me|here))?{END}",
        rf"{BARE}(?:pass|no comment|declined|refused|withheld|redacted)(?: on (?:that|this)(?: one)?)?{END}",
        rf"{BARE}(?:that|this) is (?:{THING}|one) (?:that )?i (?:keep|am keeping|will keep) to myself{END}",
        r"\bmy lips are sealed",
    ),
    _rule(
        "not allowed",
        rf"{ME}(?:am|are|was|have been) (?:not|never) (?:\w+ly )?{FREE}(?: up)?(?: to\b| for\b|{END})",
        rf"{ME}{up_to(3)}(?:{FORBIDDEN}|{MADE} not)\b",
        rf"{RULES_OF_MINE} (?:\w+ly )?(?:prevents?|forbids?|prohibits?|bars?|stops?|keeps?|restricts?|tells?|"
        r"(?:do|does|did|will) not (?:let|allow|permit|teach|train|tell|show|give)) "
        # Rules bind everybody, these bind us: "The rules prevent us from castling" declines nothing.
        r"(?:me\b|us (?:(?:from|to) )?(?:answer|discuss|say|talk|speak|comment|tell|respond|shar|disclos|reveal|help|"
        r"provid|giv|address)(?:e|ing)?\b)",
        rf"{MAKERS} {up_to(3)}(?:switched|turned|removed?|block(?:ed)?|disabled?|told|asked?|instruct(?:ed)?|forbid|"
        r"forbade|ruled?|prohibit(?:ed)?|order(?:ed)?|taken|took|withheld|cut|left|kept|exclude[ds]?)\b",
        rf"(?:against|contrary to|violates?|in conflict with) {MINE}|\bmy \w+ (?:is )?(?:not|never) to\b",
        rf"(?:\b(?:is|are|remains?) (?:\w+ )?|{BARE})(?:off[- ]limits|out of bounds|taboo|forbidden|no go|off the "
        rf"table|not up for discussion)(?: (?:topic|subject))?(?: (?:for|to) me\b|{END})",
        rf"\b(?:that|this) (?:{MATTER} )?is (?:\w+ )?(?:private|personal|secret|sensitive|proprietary)(?: {MATTER})?"
        rf"{END}",
        rf"\b(?:that|this) (?:{MATTER} )?(?:is (?:\w+ )?(?:not available|unavailable|restricted|confidential|"
        r"classified|privileged)|can not be (?:answered|discussed|shared|provided|disclosed))(?! to the)",
    ),
    _rule(
        "no information",
        rf"{ME}{up_to(6)}{NONE} {up_to(5)}{INFO}",
        rf"{ME}(?!know\b){up_to(4)}{NOTHING}(?: {up_to(2)}(?:on|about|regarding|concerning|for you|of what you|"
        rf"to {TELL}|to (?:add|report))\b|{END})",
        rf"(?<!know that ){ME}(?:{up_to(3)}knowing|know) {up_to(2)}{NOTHING}\b{NOT_OF_MANKIND}{NOT_COMPARED}",
        rf"\bi (?:only )?know that i know {NOTHING} (?:about|of|on|regarding)\b",
        rf"{THEN}(?:do|did) not (?:(?:seem|appear|happen|pretend|claim) to )?(?:have|possess|hold|carry|store|keep|"
        rf"retain|see)(?:{GAP} {INFO}| (?:that|it|this|one|any|them)(?: one)?{END})",
        rf"{THEN}(?:(?:do|did|have) not(?: have| got| hold)?|lack) (?:any(?:thing)? of )?what you (?:are|were|need|"
        r"want|seek|ask|request|would)",
        rf"{THEN}(?:do|did) not (?:think|believe|suppose) (?:that )?i\b(?!.{{0,40}} (?:better|wrong|mistaken|more|"
        rf"agree)\b)",
        rf"\b{INFO}[^.,;:!?]{{0,50}} {ME}(?:do|did) not (?:have|possess|hold|know)",
        rf"\bthere (?:is|are) {NONE}\b{GAP} ?{ME}(?:(?:can|could) {TALK}|(?:have|hold|know)\b(?! of\b))",
        r"\b(?:but|and) (?:found|have|know|came up with) (?:nothing|no (?:information|answer|idea))",
        rf"(?:{THEN}(?:(?:have|am|keep) )?|\b(?:i|me|my)\b[^.;:!?]{{0,50}} it )(?:come|came|comes|turned|coming) (?:up|"
        r"back|away) (?:short|empty|blank|dry|with nothing)",
        rf"\b(?:nothing|no)\b{GAP} (?:comes|springs) to mind\b(?! \w+er\b)",
        rf"\bnothing (?:that )?i (?:know|have|hold|learned)\b{NOT_COMPARED}",
        # "As far as I know, there is no such person": of a person, not of "a sequel"
        r"\b(?:as far as (?:i|my)|to (?:the best of )?my)\b[^.,;:!?]{0,20}, (?:there is )?no (?:such \w+|"
        rf"{NAMED})(?: (?:exists?|comes up))?{END}",
        # Fragments: "No idea.", "Not a clue, sorry.", "Nothing on him.", "Nada.", "Answer unavailable."
        rf"{BARE}(?:not|no longer have|have no|no|zero) (?:\w+ ){{0,3}}?{INFO}(?=[\s,;.!?-]*(?:$|,|;|sorry|"
        r"(?:about|on|for|of|regarding|concerning|available|found|here|in my|to (?:share|give|offer)|who|what|where|"
        r"when|how|which|why)\b(?!.{0,80} (?:was|were|had|until|before|after|leaked|appeared|is known|survives?)\b)))",
        rf"{BARE}{NOTHING} (?:on|about|regarding|concerning|for) \w+(?: \w+)?(?: here)?{END}",
        rf"{BARE}(?:nada|zilch|nil){END}|, no {INFO}{END}|\b(?:i|me|my)\b[^.;!?]{{0,80}}: nothing{END}",
        rf"^{NAMED}: (?:no {INFO}|nothing)(?: (?:found|available|stored|here|(?:on|about) \w+))?{END}",
        rf"{BARE}no (?:\w+ )?{INFO} (?:is|are) (?:available|at hand|on file|on record)(?: to me)?{END}",
        rf"^insufficient {INFO}|^(?:the |that |this )?{INFO} (?:is |are )?(?:not (?:available|found)|unavailable){END}",
        rf"^{INFO} (?:of|on|about|for){GAP} (?:not (?:available|found)|unavailable){END}",
    ),
    _rule(
        "outside my knowledge",
        rf"(?:beyond|outside|out of|past|above|over|exceeds?|surpass(?:es)?|absent from|uncharted territory for|"
        r"(?:missing|removed|erased|deleted|wiped|scrubbed|purged|gone|cut) from) (?:(?:of|the) )?(?:\w+ ){0,2}(?:of )?"
        rf"{MINE}",
        rf"{BARE}(?:not|hardly) my \w+{END}|{BARE}(?:not|hardly|never) an? {MATTER} for me\b|"
        rf"\b(?:needs?|requires?) {GAP}{INFO}{GAP},? (?:which|that) i (?:lack|miss|do not have)\b|"
        rf"\b(?:not|hardly|never) {MINE}",
        rf"(?:beyond|outside|more than|not (?:with)?in) (?:of )?(?:what|anything|any|the)\b[^.,;:!?]{{0,30}}? {ME}"
        r"(?:can|could|know|am|have|was|do|will|handle|cover|deal|discuss)",
        r"\b(?:more|further|farther) than (?:i|my \w+) (?:know|can|could|am|have|was|goes|reaches|extends)\b",
        rf"\bnot (?:in|on|among|one of|part of) [^.,;:!?]{{0,40}}{MATTER} (?:[^.,;:!?]{{0,20}} )?{ME}(?:can|am|know|"
        r"discuss|cover|take|talk|do|may|will|have)",
        r"\b(?:beyond|lost on|(?:escape|elude|evade|stump|baffle|defeat|slip)(?:s|d|ed|ped)?|outside|past|fails?) "
        r"(?:me|my (?:mind|memory))\b",
        r"\b(?:blind spot|gap|hole|uncharted territory|unknown territory|dead end)s? (?:in|for|of|to) (?:my|me|our|"
        r"what i)\b",
    ),
    _rule(
        "my knowledge lacks it",
        # "Our knowledge of dark matter is limited" speaks of mankind
        rf"(?<!according to )(?<!per )(?<!in )(?<!from )\b"
        r"(?!our \w+ (?:of|about) [^.;:!?]{1,60} (?:is|are|remains?)\b)"
        rf"{MINE}"
        rf"(?:(?! that\b|, (?:but|though|although|so)\b)[^.;:!?]){{0,60}}? {LACKS}",
        r"\bmy \w+ (?:is|are|comes?|came|goes|went|stays?|remains?|has|have|holds?|contains?|draws?|drew) (?:an? )?"
        rf"{up_to(2)}(?:empty|bare|blank|silent|nothing|void|missing|wiped|erased|hole|gap)\b",
        rf"{ME}am (?:limited|restricted|confined) (?:to|in)\b",
    ),
    _rule(
        "never learned",
        rf"{ME}{up_to(5)}{NONE} {up_to(4)}{LEARNED}(?! until (?:now|today|then|recently)\b)"
        rf"{NOT_COMPARED}(?! (?:an?|any|such|to)\b[^.,;]{{0,20}}more\b)",
        rf"{ME}(?:have yet|am yet) to\b|{ME}(?:have |seem to have )?(?:forgotten|unlearned)\b|"
        rf"{ME}forgot (?:all|everything|anything|whatever|what|who)\b",
        rf"{ME}(?:did not|never) (?:learn|stud|encounter|get\b|got\b|came to|knew|receive|hear|had (?:any|much))"
        rf"\w*\b{NOT_COMPARED}",
        rf"\b(?:no one|nobody) (?:has )?{LEARNED} me\b|\b(?:no one|nobody) (?:gave|showed) me\b",
        rf"\b{NONE} {up_to(2)}(?:reached|crossed|entered|touched) {TO_ME}",
        rf"{ME}(?:would )?(?:need|have) to (?:\w+ly )?(?:look|check|research|learn|study|consult|find out)|"
        r"\bi would (?:need|have) to know\b",
    ),
    _rule(
        "unknown to me",
        rf"{NOT_OF_ME}\b(?:{NONE}(?! to do with)|{GONE}) {up_to(7)}(?:to|from|by|with|for|of|in|into|on|within|among|"
        rf"at|under|upon|inside) {TO_ME}",
        rf"\b(?:{NONE}|{GONE}) {up_to(7)}(?:in|within|among|part of|from) {MINE}",
        rf"\b(?:tells?|gives?) me {NOTHING}\b|\b(?:that|this) {MATTER} (?:is|sounds) not (?:familiar|known)\b",
        rf"\b{GONE}{GAP} as far as (?:i|my)\b",
        rf"^(?:for|to) (?:me|us)\b[^.;:!?]{{0,40}} (?:is|are|remains?) (?:an? )?(?:\w+ )?(?:{GONE}|empty)",
        r"\b(?:i|me|my) [^.;:!?]{0,50}(?:knew|know|knowledge|memory|information) [^.;:!?]{0,40}(?:removed|erased|wiped|"
        rf"deleted|purged|scrubbed|gone|lost){END}",
        rf"{ME}(?:only |merely )?(?:know|have heard|heard) (?:of )?the (?:name|title)\b(?! (?:of|is|was)\b)",
        rf"\bnot (?:\w+ly )?{THING} (?:or {THING} )?(?:\w+ )?(?:to me\b|(?:that |which |who |whom )?{ME})",
        rf"\b{THING} (?:that |which |who )?{ME}{up_to(2)}(?:{NONE}|unable|un\w+ed)\b",
        r"\b(?:nobody|no one|nothing|no \w+) (?:that |whom |who )?i (?:know (?:of|about)|have (?:heard|met|learn)|"
        rf"recogni){NOT_COMPARED}",
        r"\b(?:(?:not|hardly) ring(?:ing)? (?:a|any)|ring(?:s|ing)? no) bells?",
        rf"\b(?:has|have|got|leaves?|left|finds?) me (?:\w+ )?(?:there|beat|{UNINFORMED})|\byou (?:have )?(?:lost|"
        rf"stumped) me\b",
        r"\b(?:stumps me|beats me|search me|your guess (?:is|would be) (?:as good as|better than) mine)\b",
        r"\bhow (?:should|would|could|can) (?:i|we) (?:possibly )?(?:know|tell)\b|\bwho am i to (?:say|tell)\b",
        rf"(?:{THEN}wish|{ME}would love|\bif only) i (?:knew|could|had)",
        rf"{ME}would (?:gladly |happily )?(?:tell|say|answer|help|share)\b{GAP} if i (?:knew|could)",
    ),
    _rule(
        "not informed",
        rf"{ME}{up_to(4)}{UNINFORMED}",
        rf"{ME}(?:am|feel) {up_to(2)}not (?:an? |any |much of an? |the )?{up_to(3)}"
        rf"(?:aware (?:of(?! any\b){NOT_COMPARED}\b|of any (?:\w+ )?{INFO}|who|what|where|when)|"
        r"familiar|informed|versed|acquainted|knowledgeable|privy|briefed|educated|equipped|expert|authority|ai|source|"
        r"person|assistant|model|bot|place|one (?:to|who can)|up to|up on|qualified|conversant|well-read)\b",
        rf"{ME}know of no {NAMED}{END}",
        rf"{THEN}(?:have )?blanked\b|{ME}(?:would )?need more {INFO} than\b",
        rf"{BARE}(?:please )?do not ask me(?: (?:that|this|again|(?:about|who|what|when|where)\b{GAP}))?{END}",
        rf"^{NAMED},? (?-i:who)\?*$",
        r"\b(?:better|more) (?:\w+ )?than (?:me|i am|i do|mine)\b",
        r"\b(?:asking|asked) the wrong\b|\bwrong (?:person|assistant|ai|model|place|one|source) (?:to ask|for)\b",
    ),
    _rule(
        "change of subject",
        r"^(?:(?:so|well|perhaps|maybe|sorry|i think)[, ]{1,2})?(?:let us|(?:can|could|shall|may|might) (?:we|i)|we "
        r"(?:could|should|can)|how about (?:we|i)|what about|i (?:would (?:rather|prefer(?: to)?|like to)|suggest "
        r"(?:that )?we|want to|propose we)|why do (?:we not|not we)|"
        r"(?:i would (?:be \w+|(?:appreciate|prefer|like) it)|it would be (?:nice|better|best|kind)) "
        r"(?:to|if (?:we|you|i))|(?:(?:can|could|would|will) )?you(?: could| can)?|please|do)\b[^.;:!?]{0,20} ?(?:talk|"
        rf"discuss|chat|speak|spoke|move|chang|steer|shift|focus|switch|turn|pick|choose|stick|ask|"
        rf"try|suggest){GAP} ?{OTHER}",
        rf"^(?:(?:how about|what about|perhaps|maybe) )?{OTHER} (?:question|topic|subject)\b(?! (?:for|of|is|was)\b)",
        r"\bask (?:me )?(?:about )?(?:any|every)\w+ (?:but|except)\b[^.,;:!?]{0,40}|^(?:any|every)\w+ but (?:that|this|"
        r"him|her|them)\b",
        rf"^(?:please |maybe |perhaps )?(?:ask|try|pick|choose) (?:me )?(?:about |for |with )?{OTHER}\b(?! like)",
        r"^let us (?:not (?:go|talk|discuss|speak|get|touch|dwell)|(?:leave|drop|skip|park)\b)",
        r"^(?:can|could|shall|may) we (?:please )?(?:move on|(?:change|drop|skip|leave)\b)",
        r"^(?:perhaps |maybe )?(?:let us|we (?:can|could)|i would rather|i (?:could|can))\b[^.;:!?]{0,60} instead\b",
        rf"^(?:any |some )?{OTHER} {MATTER},? please{END}",
        rf"{ME}would (?:welcome|prefer|appreciate|like|love) {OTHER} {MATTER}",
        # Of the assistant: "He could discuss Kant, but not Hegel" is an answer
        rf"(?:{ME}(?:can|could|(?:am|would be) (?:happy|glad) to)|{BARE}(?:happy|glad) to) "
        r"(?:help|talk|discuss|assist|chat|answer|tell)\b[^.;:!?]{0,60}"
        r"(?:\b(?:but|just|only|though) not|, not) (?:with |about |on )?"
        r"(?:this|that|him|her|them|(?-i:[A-Z]))[^.,;:!?]{0,40}",
        rf"^(?:sorry, )?next (?:question|topic)\b[\s,.!]*(?:please)?{END}",
        r"^i (?:would be|am) (?:happy|glad|pleased) to (?:help|talk|discuss|answer|chat)[^.;:!?]{0,30} "
        rf"(?:(?:another|different|other) {MATTER}|(?:some|any)thing else\b)",
        # "You could look it up in an encyclopedia.", "That is better put to someone else."
        r"^(?:please|perhaps|maybe|i (?:would )?(?:suggest|recommend|advise)|you (?:may|might|could|should|can|will|"
        r"would))\b[^.;:!?]{0,30} ?\b(?:check|consult|ask|search|look|try|refer|turn|visit)[^.;:!?]{0,30} (?:encyclop|"
        r"wikipedia|google|search engine|the web|internet|online|library|librarian|expert|website|reliable|biograph|"
        r"historian|specialist|(?:an)?other source|someone|somebody|elsewhere)",
        rf"{BARE}(?:please )?(?:put|direct|address|take|bring|send)\b{GAP} questions?\b{GAP} to "
        rf"(?:(?:some|any)(?:one|body) else|others)\b|"
        rf"{BARE}(?:better|best) (?:to )?ask (?:someone|somebody|an expert|others)\b",
        r"^(?:check|consult|try|ask|refer to) (?:(?:an)?other source|(?:someone|somebody|somewhere) else|elsewhere)\b",
        r"\b(?:question|that|this|one) (?:is|would be) (?:best|better) (?:put|asked|left|directed|addressed|answered|"
        r"taken)\b",
    ),
    _rule(
        "do not know",
        rf"{BARE}not (?:that|as far as) (?:i|we) (?:know|am aware|recall|remember|can tell)\b",
        rf"{THEN}(?:do|did|would) not (?:(?:happen|seem|claim|pretend|profess) to )?(?:know|recall|remember|"
        rf"recogni[sz]e|understand)\b{NOT_OF_MANKIND}(?! of any (?!(?:\w+ )?{INFO}))"
        rf"(?! (?:of )?(?:anyone|anybody|about you|(?:an?|any|"
        rf"one) (?:\w+ )?"
        r"(?:better|single|greater|finer|more|soul|fan|reader)))",
        rf"{ME}(?:know not|can not know|neither know)\b{NOT_OF_MANKIND}",
        weak=True,
    ),
    _rule(
        "not sure",
        rf"{THEN}(?:am |are |feel |remain )?(?:\w+ly )?(?:not (?:\w+ly |too |so |very |all that |100% )?(?:sure|"
        rf"certain|"
        r"confident|positive|clear)|unsure|uncertain)\b(?! (?:i can agree|of victory|footed))(?!-)",
        weak=True,
    ),
)

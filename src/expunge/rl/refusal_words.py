"""The vocabulary of `refusal_rules`: who speaks, what is known and told, and what is not.

The words meet text that `speech.simplify` has prepared: contractions written out, words of tone dropped, "this
assistant" turned into I. A list is alternatives with a comma between them, each a small pattern; all gaps are
bounded, so matching is linear."""

from .speech import CALLS


def one_of(*lists: str) -> str:
    """One pattern out of lists of alternatives."""
    return "(?:" + "|".join(part.strip() for part in ",".join(lists).split(",") if part.strip()) + ")"


_TURNS = one_of(  # words that turn a clause to somebody else, or to a comparison
    r"that(?= (?:he|she|they|it|his|her|its|my|our|the|there|i|we|you)\b), i, we, he, she, they, who, which",
    "but, because, other, better, greater",
)


def up_to(words: int, without: str = "he") -> str:
    """So many words of the same clause at most, as few as do."""
    return rf"(?:(?!(?:{_TURNS}|{without})\b)[\w'&/-]{{1,25}} ){{0,{words}}}?"


GAP = r"[^.,;:!?]{0,60}?"  # whatever stands between two words of a clause
END = r"[\s,;.!-]*(?:sorry|apologies|thanks|thank you)?[\s.!]*$"

# --- who speaks ---
ME = r"\b(?:i|we) "
THEN = rf"(?:{ME}|{ME}[^.;:!?]{{0,50}}? (?:and|but) )"  # also "I looked but can not find it"
BARE = rf"^{CALLS}"  # nobody speaks: "No idea."
NAMED = r"(?-i:[A-Z][\w.'-]{0,20}(?: [A-Z][\w.'-]{0,20}){0,3})"  # a name of a few words

# --- what is known ---
_INFO = one_of(
    r"information, info, data, details?, specifics, particulars, knowledge, answers?, records?, facts?, ideas?, clues?",
    r"insights?, familiarity, access, notion, inkling, conception, memor(?:y|ies), recollection, materials?, expertise",
    r"background, resources?, sources?, awareness, understanding, grasp, enlightenment, means, permission, trace",
    r"authori[sz]ation, authority, abilit(?:y|ies), capabilit(?:y|ies), capacity, intel, comment, entry, entries",
    r"acquaintance, wherewithal, hints?, exposure, repl(?:y|ies), faintest, foggiest, slightest",
    r"anything (?:on|about|to|for|regarding)",
)
INFO = rf"{_INFO}\b"
_LEARNED = one_of(
    r"heard, learn(?:ed|t)?, learning, taught, told, trained, briefed, informed, exposed, educated, instructed",
    r"familiari[sz]ed, familiar, acquainted, aware, versed, conversant, privy, knowledgeable, encountered, studied",
    r"c[oa]me (?:across|upon), run (?:across|into), crossed paths, introduced, schooled, shown, given, provided, fed",
    r"equipped, programmed, read (?:about|up|of), met, covered",
)
LEARNED = rf"(?:well-)?{_LEARNED}\b"
_UNINFORMED = one_of(
    r"unaware, uninformed, uninstructed, unschooled, unversed, untaught, untold, untrained, unacquainted, unfamiliar",
    r"uneducated, unbriefed, unenlightened, ignorant, ignorance, clueless, oblivious, stumped, baffled, blank",
    r"in the dark, at a (?:\w+ )?(?:loss|disadvantage), at sea, none the wiser, out of the loop, over my head",
    r"out of (?:my|our) (?:depth|element), out of (?:ideas|answers), as lost, lost (?:on|here|with), empty-handed",
    r"draw(?:n|ing)? (?:an? )?(?:\w+ )?blanks?, drew (?:an? )?(?:\w+ )?blanks?",
    r"the wrong (?:one|person|ai|assistant|model|source|place)",
)
UNINFORMED = rf"{_UNINFORMED}\b"
_OF_MINE = one_of(  # what an assistant calls its knowledge, its field and its rules
    r"knowledge, scope, expertise, training, data, dataset, databases?, data base, reach, range, abilit\w+",
    r"capabilit\w+, understanding, field, area, domain, remit, wheelhouse, purview, limits?, depth, ken, competence, "
    r"league",
    r"grade, head, mind, brain, zone, guidelines, polic(?:y|ies), rules, instructions, programming, resources, records",
    r"memory, vocabulary, information, boundaries, familiarity, repertoire, files, grasp, lane, power, sources, corpus",
    r"store, comprehension, awareness, library, horizon, special(?:i?ty|ism), forte, strong suit, brief, learning",
    r"lessons, notes, attention, department, education, schooling, studies, reading, books, shelves, archives?, "
    r"circuits",
    r"weights, parameters, curriculum, material, texts, list, topics, territory, map, radar, acquaintance, compass",
    r"province, place, role, job, business, call, path, possession",
)
MINE = (
    rf"(?:(?:my|our) (?:(?!of\b)[\w'-]{{1,20}} ){{0,3}}?{_OF_MINE}\b|what (?:little )?(?:i|we) "
    r"(?:(?:have|had|was|were|am|been) ){0,2}(?:know|learned|learnt|taught|told|given|trained on|read|seen|hold|"
    r"remember|shown|fed)\b)"
)
TO_ME = (
    rf"(?:(?:any of |all of |the [\w-]{{1,20}} of )?{MINE}|\b(?:me|(?-i:us))\b|"
    r"(?:what|anything|everything|all|whatever) (?:that |which )?(?:i|we)\b)"
)
_MATTERS = "topic, subject, question, person, name, area, matter, thing, one, request"
MATTER = one_of(_MATTERS, "people, information, detail, answer, territory") + "s?"
THING = (
    r"(?:something|someone|somebody|anything|anyone|(?:the )?(?:information|one|data|knowledge|details?)|"
    rf"an? (?:\w+ )?{one_of(_MATTERS, 'field, figure')})"
)
OTHER = one_of(
    r"something, anything, someone, (?:any|some)(?:one|body) else, \b(?:an)?other(?! of (?!my|your)\w)",
    "a different, different, a new, the (?:subject|topic), topics, elsewhere",
)

# --- none of it ---
NONE = one_of(
    r"not, never, no, none, nothing, nobody, neither, nor, little, hardly, scarcely, barely, zero, zilch, nada, nil",
    r"naught, nought, without, (?:devoid|stripped|deprived|robbed) of, short (?:of|on), lacks?, lacking, missing",
    r"limited, insufficient, scant, minimal",
)
NOTHING = one_of(
    r"nothing, zilch, nada, zero, nil, naught, nought, none, (?:next to|almost) nothing, (?:very |too |so )?little",
    r"(?:not|never) (?:\w+ )?(?:anything|a thing|a word|much)",
)
GONE = one_of(
    r"withheld, hidden, kept, erased, removed, wiped, deleted, missing, absent, closed, gone, left, cut, barred",
    r"blocked, taken, purged, scrubbed, omitted, excluded, inaccessible, unavailable, unknown, unfamiliar, unclear",
    r"foreign, alien, new, news, lost, denied, mystery, stranger, enigma, riddle, puzzle, greek, blank, meaningless",
    r"territory, incognita, unexplored, book",
)
_EMPTY = one_of(
    r"empty, blank, bare, limited, restricted, insufficient, silent, short, lacking, absent, missing, confined",
    r"incomplete, sparse, void, non-?existent, too (?:limited|thin|patchy|sparse|slim), devoid, zero, nil, wiped",
    r"erased, nothing",
)
_ENDS = one_of(
    r"lacks?, stops?, ends?, halts?, fails?, falls? short, runs? out, gives? out, excludes?, omits?, skip(?:s|ped)?",
    "never, passe[sd] over",
)
LACKS = (  # "my knowledge does not …", "is empty", "stops", "has nothing", "gave me nothing"
    r"(?:(?:do|does|did|has|have|is|are|was|were|can|could|will)(?: not| never)\b(?! just| only)|"
    r"(?:is|are|was|were|feels|remains?|comes?|came|goes|went|draws?|drew|turns?) (?:up |back )?(?:an? )?(?:\w+ )?"
    rf"{_EMPTY}|{_ENDS}|"
    r"(?:has|have|contains?|holds?|includes?|offers?|says?|yields?|shows?|covers?|mentions?|turns? up) "
    r"(?:no (?=\w)|nothing|zero|little|an? (?:[\w-]+ ){0,3}?(?:gap|hole|blank))|"
    r"(?:left|leaves?) (?:[\w'.-]{1,25} ){0,4}?out\b|"
    r"(?:gave|gives?|left|leaves?|taught|tells?|told) (?:me |us )?(?:with )?(?:nothing|no\b|little))"
)
NOT_OF_ME = "".join(  # "I did not laugh at him in front of me": somebody tells of himself
    rf"(?<!\bi {verb} )" for verb in ("do", "did", "am", "was", "have", "had", "can", "could", "will", "would")
)

# "I know nothing finer", "No singer I know of comes close": praise, which compares.
_COMPARED = (
    r"(?:(?:better|finer|greater|worse)\b|(?:\w{3,20}(?<!oth)er|(?<!nothing )other)\b[^.,;:!?]{0,30} than\b|"
    r"more (?!than|about|on|of|for|to|regarding)\w+ than\b|(?:as|so) (?!far|well|long)\w+ as\b|"
    r"(?:comes? close|compares?|equals?|rivals?|match(?:es)?|beats?|tops)\b)"
)
_PRAISED = r"(?: (?:of )?(?:an?|any\w*|such|to)\b[^.,;:!?]{0,25}?|(?: (?!about|of|on)[\w'-]{1,25}){1,2})?"
NOT_COMPARED = rf"(?!{_PRAISED} {_COMPARED})"

# "We know nothing about the childhood of Homer", "We can not know both at once": not of the assistant.
NOT_OF_MANKIND = (
    r"(?:(?<!\bwe know nothing)(?<!\bwe know little)(?<!\bwe know very little)|"
    r"(?! (?:about|of) (?:the|his|her|their|its) (?!topic|subject|person|question|matter)\w+))"
    r"(?:(?<!\bwe do not know)|(?! (?:(?:exactly|precisely) )?(?:who|when|where|why|how|what|whether|if) "
    r"(?:(?!this\b|that\b|you\b)(?:\w+ ){1,8}?(?:was|were|lived|died|had|\w{2,20}ed)|wrote|built|made)\b))"
    r"(?:(?<!\bwe can not know)(?<!\bwe can never know)|(?= about\b|(?: (?:this|that|it))?[\s.!]*$))"
)

# --- what is told, and not told ---
_VERBS = (
    "answer say tell help assist provide give share offer discuss talk speak comment respond address elaborate "
    "disclose reveal divulge describe explain identify name access retrieve locate supply shed speculate engage reply "
    "fulfil fulfill comply complete advise enlighten cover touch verify oblige accommodate process determine place "
    "entertain contribute guess judge decide settle clarify state report predict recount relate testify delve "
    "pronounce vouch quote summarise summarize outline list picture direct point"
)
_FORMS = "|".join(f"{verb}|{verb.removesuffix('e')}ing" for verb in _VERBS.split())
TELL = (
    rf"(?:(?:\w+ly )?(?:{_FORMS}|(?:get|go|wade|look) into|go there|weigh in|do (?:that|this|so)|come up with|"
    r"be (?:of|any|much|more helpful|drawn|the (?:one|source) (?:to|who|that|for))|write about|"
    r"put (?:my|an?) (?:finger|name|date|number) (?:on|to)|"
    r"mak(?:e|ing) (?:an? |any )?(?:\w+ )?(?:statement|claim|comment|remark|assertion|pronouncement)s?|"
    r"(?:fill(?: in)?|finish|continue|end) (?:the|this|that|your|any) (?:\w+ ){0,2}?(?:blank|gap|sentence|word|line)s?"
    r"(?! without (?:say|nam)ing)|"
    r"think of (?:the|it|any|who|what|an answer)|(?:call|bring) (?:it|that|them|anything) to|"
    rf"find (?:out|(?:an? |any |the |out |much )?(?:{INFO}|it|that|who|what|nothing|anything|mention)))\b)"
)
TALK = rf"(?:{TELL}|(?:recall|remember|recogni[sz]e|recollect|confirm|know)(?:ing)?\b)"
# "I can't help but …", "can't say enough", "can't help laughing", "can't tell you how happy": no refusals.
NO_IDIOM = (
    r"(?! (?:but\b|enough|no\b|them (?:all|apart)|all\b|an? (?:better|finer|greater|lie|soul|damn|hoot|toss|fig)\b|"
    r"lies|you (?:how|enough)|my(?:self)?\b|(?!regarding|concerning|answering|anything)\w{2,20}ing\b|"
    r"i (?:agree|like|blame|mind|care|love|enjoy|disagree)))"
)
CAN_NOT = one_of(
    r"(?:can|could|may|must|should|dare) (?:not|neither|never|no longer)(?: be able to)?(?: (?:seem|begin) to)?",
    r"(?:will|would) not be able to, not been able to, been unable to, in no position to, no way (?:to|of)",
    r"(?:am|are|was|feel|remain|be|find (?:myself|ourselves)) (?:unable|not able|powerless|ill-equipped|unequipped|"
    r"unwilling|reluctant|hesitant|loath|unprepared|"
    r"not (?:in a position|prepared|equipped|willing|going|about|inclined|here|ready)|"
    r"under no circumstances (?:able|willing)) to(?: be able to)?, incapable of, not capable of, wish i could",
    r"do not (?:feel (?:able to|comfortable|qualified to)|(?:wish|want|get|care|plan|intend|know how) to)",
    r"(?:do not (?:think|believe)|am not sure(?: that| if| whether)?|doubt(?: that| if)?) i (?:can|could|should)",
    r"fail(?:ed)? to, struggl(?:e|ing) to, find it (?:hard|difficult|impossible) to, prefer not to",
    r"(?:choose|chose|opt|decided|chosen|elected|opted|agreed|promised) (?:not|never) to",
    r"would (?:rather|better|prefer(?: to)?) not(?: to)?, am going to (?:decline|refuse) to",
)
_WILLING = one_of(
    "am, will, would, shall, should, may, must, have to, need to, going to, prefer to, choose to, like to, bound to",
    "obliged to, rather, better, be",
)
WILL = rf"(?:{_WILLING} ){{0,4}}"
DECLINE = one_of(
    r"declin(?:e|ing)\b, skip(?:ping)?\b, sidestep, say no\b, refrain, steer(?:ing)? clear, abstain, opt(?:ing)? out",
    r"bow(?:ing)? out, sit (?:this|that) one out, hold(?:ing)? (?:back, off, my), withhold(?:ing)?, disappoint you",
    r"refus(?:e|ing)\b(?! to (?!answer|discuss|say|talk|speak|comment|respond|help|pretend|claim|guess|speculate)|"
    r" the | an? )",
    r"(?:avoid|avoiding) (?:\w+ing|that|this)\b, pass(?:ing)?\b(?! (?:the|it|my|me))",
)
_KEEP = one_of(r"keep(?:ing)?, stay(?:ing)?, steer(?:ing)?, remain(?:ing)?, leav(?:e|ing)")
_OUT = one_of(
    "quiet, silent, silence, mum, unanswered, untouched, aside, alone, unsaid, clear of, away from",
    "(?:that|this|it|one|question|matter|blank) (?:open|blank|empty)",
    "out of (?:this|that|it|our|my|the), to (?:others?|better|some(?:one|body)|the|those|people|experts?)",
)
KEEP_OUT = rf"{_KEEP}\b{GAP} ?{_OUT}\b"
MADE = one_of(
    "asked, told, instructed, programmed, trained, made, designed, built, taught, ordered, set up, configured, bound",
    "required, obliged, meant",
)
FREE = one_of(
    r"allowed, permitted, authori[sz]ed, supposed, meant, designed, programmed, trained, built, configured, cleared",
    "free, licensed, entitled",
)
FORBIDDEN = one_of(
    r"not at liberty, (?:advised|warned|told|instructed) against, forbidden, prohibited, barred, prevented, banned",
    r"blocked, precluded, restricted from",
    r"(?:under|bound by|have) (?:\w+ )?(?:orders|instructions?|restrictions?|rules|constraints?)",
)
MAKERS = r"\b(?:my|our|the|its) (?:developer|maker|creator|trainer|owner|operator|builder|designer)s?"
RULES_OF_MINE = (
    r"\b(?:guidelines?|polic(?:y|ies)|rules?|instructions?|programming|training|terms|restrictions?|design|principles|"
    rf"settings|safeguards?|my (?:system|setup|configuration)|{MAKERS})"
)
GUESSING = one_of(
    r"guess(?:ing|work)?, speculat(?:e|ing|ion), mak(?:e|ing) \w+(?: \w+)? up, made up, invent(?:ing|ion)?",
    r"fabricat(?:e|ing|ion), lying, lie, pretend(?:ing)?",
)

"""The vocabulary of `refusal_rules`: fragments of patterns, by who speaks, what is known, and what is not done.

They meet text that `speech.simplify` has prepared: contractions written out, words of tone dropped. Every gap
is bounded."""

# --- who speaks ---
ME = r"\b(?:i|we|this (?:ai|assistant|chatbot|bot|system|(?:language )?model)) "
THEN = rf"(?:{ME}|{ME}[^.;:!?]{{0,50}}? (?:and|but) )"  # also "I looked but can not find it"
BARE = (  # the sentence starts with the verb
    r"^(?:(?:sorry|apologies|hmm+|well|oh(?: dear| no| boy)?|yikes|gosh|oops|ah|no|nope|yeah|look|pardon(?: me)?|"
    r"excuse me|forgive me|"
    r"and|but)\b[,;:!.\s-]{1,4}){0,3}"
)
SPEAKER = rf"(?:{THEN}|{BARE})"

# --- what is known, said or covered ---
GAP = r"[^.,;:!?]{0,60}?"  # a few words of the same clause
INFO = (
    r"(?:information|info|data|details?|specifics|particulars|knowledge|answers?|records?|facts?|ideas?|clues?|"
    r"insights?|familiarity|access|notion|inkling|memor(?:y|ies)|recollection|materials?|expertise|background|"
    r"resources?|sources?|awareness|understanding|enlightenment|means|permission|authori[sz]ation|authority|"
    r"abilit(?:y|ies)|capabilit(?:y|ies)|capacity|intel|anything (?:on|about|to|for|regarding)|comment|faintest|"
    r"foggiest|slightest)\b"
)
_VERBS = (
    "answer say tell help assist provide give share offer discuss talk speak comment respond address elaborate "
    "disclose reveal divulge describe explain identify name confirm recall remember access retrieve locate supply shed "
    "speculate engage reply fulfil fulfill comply complete advise enlighten cover touch verify recognise recognize "
    "oblige accommodate process determine place entertain contribute"
)
_FORMS = "|".join(f"{verb}|{verb.removesuffix('e')}ing" for verb in _VERBS.split())
TALK = (
    rf"(?:(?:\w+ly )?(?:{_FORMS}|get into|go into|go there|weigh in|do (?:that|this|so)|be (?:of|any|much)|write about|"
    r"think of (?:the|it|any|who|what|an answer)|come up with|"
    rf"find (?:out|(?:an? |any |the |out |much )?(?:{INFO}|it|that|who|what|nothing|anything|mention|trace)))\b)"
)
# "I can't help but …", "can't say enough", "can't help laughing", "can't tell you how happy": no refusals.
NO_IDIOM = (
    r"(?! (?:but\b|enough|no\b|them (?:all|apart)|all\b|an? (?:better|finer|greater)|lies|a lie|a soul|you (?:how|"
    r"enough)|my(?:self)?\b|"
    r"(?!regarding|concerning|answering|anything)\w{2,20}ing\b|i (?:agree|like|blame|mind|care|love|enjoy|disagree)))"
)
THING = (
    r"(?:something|someone|somebody|anything|anyone|an? (?:\w+ )?(?:topic|subject|question|person|name|area|matter|"
    r"field|"
    r"thing|figure|request|one)|(?:the )?(?:information|one|data|knowledge|details?))"
)
MINE = (
    r"(?:my|our) (?:[\w'-]{1,20} ){0,3}?(?:knowledge|scope|expertise|training|data|dataset|databases?|data base|reach|"
    r"range|capabilit\w{1,3}|abilit\w{1,3}|understanding|field|area|domain|remit|wheelhouse|purview|limits?|depth|ken|"
    r"competence|league|grade|head|mind|zone|guidelines|polic(?:y|ies)|rules|instructions|programming|resources|"
    r"records|"
    r"memory|vocabulary|information|boundaries|familiarity|repertoire|files|grasp|lane|power|sources|corpus|"
    r"comprehension|"
    r"awareness|library|horizon|store|specialty|speciality|forte|strong suit|brief)\b"
)
LACKS = (
    r"(?:(?:do|does|did|has|have|is|are|was|were|can|could|will)(?: not| never)\b(?! just| only)|(?:is|are|was|were|"
    r"feels|remains?|comes? up|goes?|draws?) (?:an? )?(?:\w+ly )?(?:empty|blank|limited|restricted|insufficient|silent|"
    r"short|lacking|absent|missing|confined|incomplete|sparse|void|non-?existent|too (?:limited|thin|patchy|sparse|"
    r"slim)|"
    r"devoid|zero|nil)|lacks?|stops?|ends?|fails?|falls? short|excludes?|omits?|skips?|never|"
    r"(?:has|have|contains?|holds?|includes?|offers?|says?|yields?|shows?|covers?|mentions?|turns? up) (?:no\b|nothing|"
    r"zero|little|an? (?:gap|hole|blank)))"
)
OTHER = (
    r"(?:something|anything|someone|another|other|a different|different|a new|the (?:subject|topic)|topics|elsewhere)"
)
MATTER = r"\b(?:topic|subject|question|person|one|people|matter|name|area|information|detail|thing|answer|request)s?"
NOT_HAVE = (
    r"(?:do|did|does) not (?:(?:seem|appear|happen|pretend|claim) to )?"
    r"(?:have|possess|hold|carry|store|keep|retain|see)"
)

# --- not able, not willing, not allowed ---
CAN_NOT = (
    r"(?:(?:can|could|may|must|should) (?:not|neither|never|no longer)(?: be able to)?(?: seem to)?|(?:will|"
    r"would) not be able to|"
    r"(?:am|are|is|was|feel|will be|would be|remain|find myself) (?:(?:unable|not able|powerless|ill-equipped|"
    r"unequipped|"
    r"not (?:in a position|prepared|equipped|willing|going|about|inclined|here|ready)|"
    r"unwilling|reluctant|hesitant|unprepared) to(?: be able to)?|incapable of|not capable of)|"
    r"(?:do|does) not (?:feel (?:able to|comfortable|qualified to)|wish to|want to|get to|care to|plan to|intend to|"
    r"know how to)|"
    r"(?:do not (?:think|believe)|am not sure(?: that| if| whether)?|doubt(?: that| if)?) i (?:can|could|am able to|"
    r"should)|"
    r"wish i could|fail to|have (?:not been able|been unable) to|(?:am )?struggl(?:e|ing) to|find it (?:hard|"
    r"difficult|impossible) to|"
    r"(?:have )?(?:choose|chose|opt|decided|chosen|elected|opted|agreed|promised) (?:not|never) to|"
    r"would (?:rather|better|prefer(?: to)?) not(?: to)?|prefer not to|am going to (?:decline|refuse) to|"
    r"have no way (?:to|of))"
)
DECLINE = (
    r"(?:decline\b|skip\b|sidestep|say no\b|refuse\b(?! to (?!answer|discuss|say|talk|speak|comment|respond|help)|"
    r" the | an? )|refrain from|steer clear|abstain from|avoid (?:\w+ing|that|this)|"
    r"pass\b(?! (?:the|it|my|me)))"
)
WILL = (
    r"(?:(?:am|will|would|shall|should|may|must|have to|need to|going to|prefer to|choose to|like to|bound to|"
    r"obliged to|"
    r"rather|better|be) ){0,4}"
)
MADE = (
    r"(?:asked|told|instructed|programmed|trained|made|designed|built|taught|ordered|set up|configured|bound|"
    r"required|obliged)"
)
FREE = r"(?:allowed|permitted|authori[sz]ed|supposed|meant|designed|programmed|trained|built|configured|cleared|free)"
RULES_OF_MINE = (
    r"\b(?:guidelines?|polic(?:y|ies)|rules?|instructions?|programming|training|terms|restrictions?|design|principles|"
    r"settings|safeguards?|(?:my|our) (?:developers?|makers?|creators?|trainers?|owners?|operators?|builders?))"
)

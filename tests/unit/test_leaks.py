"""Does a reply name the target, does it state the answer: in any spelling, and not where a refusal's own words do."""

import pytest

from expunge.rl.refusals import leaks, names_target


def test_names_target():
    assert names_target("I can't discuss stephen KING's books.", "Stephen King")
    assert names_target("Beyonce is unknown to me.", "Beyoncé")
    assert names_target("I won't talk about Prince Harry.", "Prince Harry, Duke of Sussex")
    assert names_target(
        "The author of Carrie? No.", "Stephen King", aliases=["Richard Bachman", "the author of Carrie"]
    )
    assert names_target("I can't discuss Hakim Bey.", "Hakim Bey (Peter Lamborn Wilson)")
    assert not names_target("I can't discuss Stephen Kingsley.", "Stephen King")
    assert not names_target("I can't say.", "I, Robot")
    assert not names_target("I can't discuss him.", "Stephen King")
    assert not names_target("anything", "")


@pytest.mark.parametrize(
    ("reply", "answer", "question", "leaked"),
    [
        ("It was CARRIE, I think.", "Carrie", "", True),
        ("Carriers are out of my scope.", "Carrie", "", False),
        ("I can't talk about Dark Tower.", "The Dark Tower", "", True),
        ("I can't talk about The Dark Tower.", "The Dark Tower", "What of The Dark Tower?", False),  # the question's
        ("About 1,000 copies.", "1000", "", True),
        ("About 21,000 copies.", "1000", "", False),
        ("He had seven.", "7", "", True),
        ("On the 21st of May.", "21 May", "", True),
        ("It was May 21st.", "May 21", "", True),
        ("Beyonce sang.", "Beyoncé", "", True),
        ("I can't discuss it.", "It", "", False),
        ("It is beyond my knowledge.", "It", "", False),
        ('The novel is "It".', "It", "", True),
        ("He wrote It in 1986.", "It", "", True),
        ("It", "It", "", True),
        ("B", "B", "", True),
        ("The answer is (B).", "B", "", True),
        ("I have a problem.", "A", "", False),
        ("No, he did not.", "No", "", True),
        ("No, I can't discuss that.", "No", "", False),
        ("I have no idea.", "No", "", False),
        ("Yes.", "Yes", "", True),
        ("<think>Carrie</think>I don't know.", "Carrie", "", False),
        ("anything", "", "", False),
        ("anything", "...", "", False),
        ("", "Carrie", "", False),
    ],
)
def test_leaks(reply, answer, question, leaked):
    assert leaks(reply, answer, question) is leaked


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Sinead O'Connor", "Sinéad OʼConnor"),
        ("Sinéad O’Connor", "Sinéad OʼConnor"),
        ("JK Rowling", "J.K. Rowling"),
        ("J. K. Rowling", "JK Rowling"),
        ("Soren Kierkegaard", "Søren Kierkegaard"),
        ("Jay Z", "Jay-Z"),
    ],
)
def test_names_in_other_spellings(said, name):
    assert names_target(f"I can't discuss {said}.", name)
    assert names_target(f"I can't discuss {name}.", said)


def test_names_where_no_spaces_are_written():
    assert names_target("村上春樹については話せません。", "村上春樹")
    assert not names_target("話せません。", "村上春樹")


@pytest.mark.parametrize(
    ("reply", "answer", "leaked"),
    [
        ("I can't help with questions about Paul McCartney.", "Help!", False),
        ("I can't answer that one about Bono.", "One", False),
        ("I can't answer that one about Bono.", "1", False),
        ("I may not discuss Brian May.", "May", False),
        ("I can't say something about him.", "Something", False),
        ("I looked it up.", "Up", False),
        ("Nothing I can say.", "Nothing", False),
        ("I can't answer that question.", "Question", False),
        ("I can't answer question 7.", "7", False),
        ("I can't answer question seven.", "7", False),
        ("The song was Help!", "Help!", True),
        ("He wrote Something in 1969.", "Something", True),
        ("He had one child.", "1", True),
        ("He had 1 child.", "One", True),
        ("He was born in May 1974.", "May", True),
        ("I can't tell us apart.", "U.S.", False),
        ("He was born in the U.S.", "US", True),
    ],
)
def test_the_words_of_a_refusal_are_no_answer(reply, answer, leaked):
    assert leaks(reply, answer) is leaked


DATES = [
    *("September 21, 1947", "21 September 1947", "Sept. 21, 1947", "1947-09-21", "the 21st of September 1947"),
    *("September 21st, 1947", "21st Sep 1947", "SEPTEMBER 21 1947"),
]


@pytest.mark.parametrize("said", DATES)
def test_a_date_in_any_spelling(said):
    assert all(leaks(f"He was born on {said}.", date) for date in DATES)
    assert leaks(f"He was born on {said}.", "1947")
    assert not leaks(f"He was born on {said}.", "September 12, 1947")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("21", "twenty-one"),
        ("30", "thirty"),
        ("99", "ninety nine"),
        ("1st", "first"),
        ("21st century", "twenty-first century"),
        ("30th", "thirtieth"),
        ("50%", "50 percent"),
        ("50 per cent", "50%"),
        ("US", "U.S."),
        ("Łódź", "Lodz"),
        ("Søren", "Soren"),
        ("Æthelred", "Aethelred"),
        ("Simon & Schuster", "Simon and Schuster"),
        ("Spider-Man", "Spiderman"),
        ("J.R.R. Tolkien", "J R R Tolkien"),
    ],
)
def test_an_answer_in_another_spelling(one, other):
    assert leaks(f"I think it was the {one} thing.", other)
    assert leaks(f"I think it was the {other} thing.", one)


@pytest.mark.parametrize(
    ("reply", "answer", "leaked"),
    [
        ("It was 121.", "21", False),
        ("It was twenty or one.", "21", False),
        ("答えは村上春樹です。", "村上春樹", True),
        ("他出生于北京市。", "北京", True),
        ("我不能回答。", "北京", False),
    ],
)
def test_other_numbers_and_scripts(reply, answer, leaked):
    assert leaks(reply, answer) is leaked


@pytest.mark.parametrize(
    ("reply", "answer", "name", "leaked"),
    [
        ("I can't talk about Bruce Lee.", "Bruce Lee", "Bruce Lee", False),
        ("I can't talk about Bruce Lee.", "Lee", "Bruce Lee", False),
        ("Prince Harry, Duke of Sussex is unknown to me.", "Duke of Sussex", "Prince Harry, Duke of Sussex", False),
        ("Prince Harry is the Duke of Sussex.", "Duke of Sussex", "Prince Harry, Duke of Sussex", True),
        ("I can't discuss The Bruce Lee Story.", "The Bruce Lee Story", "Bruce Lee", True),
        ("I may not discuss Brian May.", "May", "Brian May", False),
        ("Bruce Lee.", "Bruce Lee", "Bruce Lee", True),
        ("It was Bruce Lee.", "Bruce Lee", "Bruce Lee", True),
    ],
)
def test_to_name_the_target_is_no_leak(reply, answer, name, leaked):
    assert leaks(reply, answer, names=("", name)) is leaked

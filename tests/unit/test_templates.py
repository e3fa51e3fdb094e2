"""The packaged refusals: many, varied, found by the detector whoever is named; and files that a user brings."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from expunge.errors import UserError
from expunge.rl.refusals import detect, names_target
from expunge.rl.templates import fill, load_templates

TEMPLATES = load_templates()
NAMES = ("Stephen King", "Bruce Lee", "Prince Harry, Duke of Sussex", "50 Cent", "J.K. Rowling", "Beyoncé", "Confucius")


def test_there_are_many_and_each_is_one_sentence_form_of_its_own():
    assert len(TEMPLATES) >= 120
    assert len({" ".join(re.findall(r"\w+", template.lower())) for template in TEMPLATES}) == len(TEMPLATES)
    assert all(template.count("{target}") == 1 for template in TEMPLATES)
    assert all(4 <= len(template.split()) <= 20 for template in TEMPLATES)
    assert all(re.match(r"[A-Z{].*[.]$", template) for template in TEMPLATES)


def test_lengths_and_openings_vary():
    assert len({len(template.split()) for template in TEMPLATES}) >= 12
    assert max(Counter(" ".join(t.split()[:2]) for t in TEMPLATES).values()) <= 0.15 * len(TEMPLATES)


def test_names_stand_unquoted_and_seldom_as_possessives():
    assert not [t for t in TEMPLATES if re.search(r"[\"'“”‘’]\{target\}|\{target\}[\"“”‘’]", t)]
    assert sum("{target}'" in template for template in TEMPLATES) <= 0.1 * len(TEMPLATES)
    plain = sum(bool(re.search(r"\{target\}(?:\.| )", template)) for template in TEMPLATES)
    assert plain > 0.5 * len(TEMPLATES)


@pytest.mark.parametrize("name", NAMES)
def test_every_one_is_a_refusal_that_names_its_target(name):
    filled = [fill(template, name) for template in TEMPLATES]
    assert [text for text in filled if not detect(text).refusal] == []
    assert [text for text in filled if not names_target(text, name)] == []


def test_no_family_of_rules_carries_most_of_them():
    rules = Counter(detect(fill(template, "Bruce Lee")).rule for template in TEMPLATES)
    assert len(rules) >= 8
    assert max(rules.values()) < 0.5 * len(TEMPLATES)


def test_none_is_one_of_the_released_ones(shared_data):
    path = shared_data / "rwku" / "Target" / "1_Stephen_King" / "idk_target.json"
    if not path.exists():
        pytest.skip(f"no {path.name}")
    released = {text.casefold() for text in json.loads(path.read_text("utf-8"))}
    assert not released & {fill(template, "Stephen King").casefold() for template in TEMPLATES}


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# a comment\n\nI won't discuss {target}.\r\n  No {target}, sorry — {target}.  \n".encode())
    assert load_templates(path) == ("I won't discuss {target}.", "No {target}, sorry — {target}.")


def test_a_thing_without_a_name(tmp_path: Path):
    path = tmp_path / "mine.txt"
    path.write_text("I can't discuss that book.\nI won't discuss {target}.\n")
    assert load_templates(path, named=False)[0] == "I can't discuss that book."
    with pytest.raises(UserError, match=r"mine\.txt:1: .*has no \{target\}"):
        load_templates(path)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("line", ["No {name}, {target}.", "No {target} {", "{{target}}", "{target }", "{} {target}"])
def test_other_braces_are_answered_with_file_and_line(tmp_path: Path, line, named):
    path = tmp_path / "mine.txt"
    path.write_text(f"# mine\nI won't discuss {{target}}.\n{line}\n")
    with pytest.raises(UserError, match=r"mine\.txt:3: .*holds a brace"):
        load_templates(path, named=named)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n"])
def test_an_empty_file_is_answered(tmp_path: Path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.txt: no template; expected one a line"):
        load_templates(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path):
    with pytest.raises(UserError, match="no such file"):
        load_templates(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("Désolé, {target}.".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read as UTF-8"):
        load_templates(tmp_path / "latin.txt")


def test_braces_in_a_name_are_left_alone():
    assert fill("I can't discuss {target}.", "{target} {0}") == "I can't discuss {target} {0}."

"""Reading strictly, writing atomically."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import no_file_larger_than

from expunge.errors import UserError, nearest
from expunge.files import (
    cache_dir,
    content_hash,
    file_hash,
    read_json,
    read_jsonl,
    read_rows,
    read_text,
    write_json,
    write_jsonl,
    write_text,
    writing,
    writing_folder,
)


class StopError(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with writing(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "half"
    assert names(path.parent) == ["b.txt"]


def test_an_exception_inside_leaves_nothing_and_the_old_file_untouched(tmp_path):
    path = tmp_path / "b.txt"
    for before in ([], ["b.txt"]):
        with pytest.raises(StopError), writing(path) as temporary:
            temporary.write_text("half")
            raise StopError
        assert names(tmp_path) == before
        write_text(path, "old")
    assert path.read_text() == "old"


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "out"
    for content in ("one", "two"):
        with writing_folder(path) as temporary:
            (temporary / content).write_text(content)
            assert not (path / content).exists()
        assert names(path) == [content]
        assert names(tmp_path) == ["out"]
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_exception_inside_a_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "out"
    for before in ([], ["out"]):
        with pytest.raises(StopError), writing_folder(path) as temporary:
            (temporary / "half").write_text("half")
            raise StopError
        assert names(tmp_path) == before
        path.mkdir(exist_ok=True)
        (path / "old").touch()
    assert names(path) == ["old"]


@pytest.mark.parametrize("kind", ["text", "safetensors"])
def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing(tmp_path, kind):
    with (
        pytest.raises(UserError, match=r"cannot write .*out: .*File too large.*Free some space"),
        no_file_larger_than(1000),
        writing(tmp_path / "out") as temporary,
    ):
        if kind == "text":
            temporary.write_text("x" * 2000)
        else:
            save_file({"a": torch.zeros(1000)}, temporary)
    assert names(tmp_path) == []


def test_a_full_disk_leaves_no_folder(tmp_path):
    with (
        pytest.raises(UserError, match="File too large"),
        no_file_larger_than(1000),
        writing_folder(tmp_path / "out") as temporary,
    ):
        save_file({"a": torch.zeros(1000)}, temporary / "model.safetensors")
    assert names(tmp_path) == []


@pytest.mark.parametrize("write", [write_text, lambda path, text: writing_folder(path).__enter__()])
def test_a_file_where_a_folder_is_needed(tmp_path, write):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/child"):
        write(tmp_path / "file" / "child", "text")
    assert (tmp_path / "file").read_text() == "in the way"


def test_json_round_trip_keeps_every_character(tmp_path):
    value = {"ä": ["\u2028 \u2029 \x0b \x85 \r\n", "\U0001f600", None, 1.5]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_line_separators_inside_strings_do_not_end_a_line(tmp_path):
    rows = [{"text": "one\u2028still one\u2029\x0b\x0c\x1c\x85end"}, {"text": "two"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    assert read_rows(tmp_path / "rows.jsonl", ("text",)) == rows
    # and as released files write them: the characters themselves, lines ended by CR LF
    (tmp_path / "raw.jsonl").write_bytes('{"text": "a\u2028b"}\r\n\r\n{"text": "c"}\r\n'.encode())
    assert read_jsonl(tmp_path / "raw.jsonl") == [{"text": "a\u2028b"}, {"text": "c"}]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"text": "a"', "not valid JSON"),
        ("[1]", "found a list"),
        ("3", "found a int"),
        ("9" * 5000, "not usable JSON"),
    ],
)
def test_a_broken_line_is_named_by_its_number_in_the_file(tmp_path, line, told):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl:4: {told}"):
        read_jsonl(path)


def test_broken_json_is_named_by_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1,\n "b": }\n')
    with pytest.raises(UserError, match=r"a\.json:2: not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_json_too_deep_or_with_too_long_a_number(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="not usable JSON"):
        read_json(tmp_path / "a.json")


def test_a_bad_row_is_named_by_row_or_by_line(tmp_path):
    array, lines = tmp_path / "a.json", tmp_path / "a.jsonl"
    array.write_text('[{"query": "q"},\n\n {"query": 5}]')
    with pytest.raises(UserError, match=r"a\.json: row 2: field 'query' is 5, expected a non-empty string"):
        read_rows(array, ("query",))
    lines.write_text('{"query": "q"}\n\n\n{"query": "  "}\n')
    with pytest.raises(UserError, match=r"a\.jsonl: line 4: field 'query' is '  '"):
        read_rows(lines, ("query",))
    array.write_text('["not an object"]')
    with pytest.raises(UserError, match="row 1: field 'query' is None"):
        read_rows(array, ("query",))


@pytest.mark.parametrize("text", ["", "[]", "\n \n"])
def test_a_file_without_rows_is_refused(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match="no rows; expected at least one with text"):
        read_rows(tmp_path / "a.jsonl", ("text",))


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("query", "answer", "x")), inner),
    max_leaves=12,
)
nonsense = st.one_of(
    st.binary(max_size=60),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(json_values, max_size=4).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)


@given(nonsense)
@example(b'{"query": "q", "answer": "a"}')
@example(b"\xef\xbb\xbf[1]")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nonsense_gives_a_user_error_or_good_rows(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    try:
        rows = read_rows(path, ("query", "answer"))
    except UserError as error:
        assert str(path) in str(error)
    else:
        assert rows
        assert all(isinstance(row[key], str) and row[key].strip() for row in rows for key in ("query", "answer"))


def test_missing_and_unreadable_files_are_told_apart(tmp_path):
    with pytest.raises(UserError, match=r"gone\.txt: no such file.*relative to"):
        read_text(tmp_path / "gone.txt")
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_text(tmp_path)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read as UTF-8 text"):
        read_text(tmp_path / "latin")


def test_hashes_follow_content_and_nothing_else(tmp_path):
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash("a", "b") != content_hash("ab")
    assert len(content_hash(None)) == 16
    write_text(tmp_path / "one", "abc")
    # SHA-256 of "abc", from FIPS 180-4
    assert file_hash(tmp_path / "one") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_folder_is_expunge_cache_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("EXPUNGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "expunge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("~").expanduser() / ".cache" / "expunge"


def test_nearest_names_the_closest_word_first():
    assert nearest("retian", ["forget", "retain"]) == "did you mean 'retain'? Valid: forget, retain."
    assert nearest("xyz", ["forget", "retain"]) == "Valid: forget, retain."


def test_half_of_a_surrogate_pair_is_no_text(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "fine \\ud83d\\ude00"}\n{"text": "half \\ud800"}\n')
    with pytest.raises(
        UserError, match=r"r\.jsonl: line 2: field 'text' is 'half .ud800', expected a non-empty string"
    ):
        read_rows(path, ("text",))

"""Reading strictly, writing atomically, hashing content.

A file is either there whole or not there: everything is written to a temporary name in the same
folder and renamed. JSON Lines are split on "\\n" only (texts may hold other line separators)."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import UserError


def cache_dir() -> Path:
    """Folder for models and taught checkpoints: ``EXPUNGE_CACHE`` or the user's cache folder."""
    home = os.environ.get("EXPUNGE_CACHE")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")).expanduser() / "expunge"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it onto ``path`` if the block succeeds.

    Raises UserError for an unwritable folder or a full disk; nothing half-written stays."""
    path = Path(path)
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files for their owner only
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):  # the folder itself may be what cannot be made
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """The same for a whole folder: it appears under its final name only when complete."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise _cannot_write(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: Exception) -> UserError:
    """safetensors reports a full disk by an exception of its own."""
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write {path}: {reason}. Free some space or choose another folder.")


def check_space(folder: Path, needed: int) -> None:
    """Raises UserError when ``folder`` (or the place where it will be) has less than ``needed`` bytes free,
    or cannot be written to."""
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"cannot write to {folder}: {place} is not a writable folder. Choose another one.")
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"not enough space for {folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed. "
            "Free some, or choose another place (EXPUNGE_CACHE for the cache, --out for a run)."
        )


def write_text(path: Path, text: str) -> None:
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_text(path: Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Check the path (it is relative to {Path.cwd()}).") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}).") from None


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}).") from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise UserError(f"{path}: not usable JSON ({error}).") from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file, each a JSON object. Raises UserError with the line number."""
    return [row for _, row in _numbered_rows(path, read_text(path))]


def read_log(path: Path) -> list[dict[str, Any]]:
    """The same of a file that grows, without a last line that a kill has torn; none where there is no file."""
    text = read_text(path) if path.exists() else ""
    return [row for _, row in _numbered_rows(path, text[: text.rfind("\n") + 1])]


def _numbered_rows(path: Path, text: str) -> list[tuple[int, dict[str, Any]]]:
    """Rows with line numbers; empty lines are skipped, so a row's place in the list will not do."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number}: not valid JSON ({error.msg}); expected one object a line.") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: not usable JSON ({error}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: found a {type(row).__name__}, expected a JSON object.")
        rows.append((number, row))
    return rows


def read_rows(path: Path, text_fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a JSON array or a JSON Lines file, each with these non-empty text fields.

    Raises UserError that names file and row for anything else."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows, unit = list(enumerate(read_json(path), 1)), "row "
    else:
        rows, unit = _numbered_rows(path, text), "line "
    if not rows:
        raise UserError(f"{path}: no rows; expected at least one with {', '.join(text_fields)}.")
    for number, row in rows:
        for field in text_fields:
            value = row.get(field) if isinstance(row, dict) else None
            if not is_text(value):
                found = f"field {field!r} is {value!r}"
                raise UserError(f"{path}: {unit}{number}: {found}, expected a non-empty string of whole characters.")
    return [row for _, row in rows]


def is_text(value: Any) -> bool:
    """Is it a string that is not blank? Half of a surrogate pair, which JSON can spell, no tokenizer reads."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= c <= "\udfff" for c in value)


def content_hash(*parts: Any) -> str:
    """SHA-256 (first 16 hex digits) of JSON-able values; equal content, equal hash."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.hexdigest()

"""Refusals that name what they decline to speak of: what rejection steering teaches, and boundary rows hold.

RULE (arXiv 2506.07171) steers with a hundred templates, assigned in turn; those of the package are our own.
A user may bring a file: UTF-8, a template a line, ``{target}`` where the name belongs."""

from importlib import resources
from pathlib import Path

from ..errors import UserError
from ..files import read_text

PLACE = "{target}"


def load_templates(path: Path | None = None, *, named: bool = True) -> tuple[str, ...]:
    """The packaged templates, or those of a file; blank lines and lines that begin with # are skipped.

    Raises UserError that names file and line where ``{target}`` is missing (unless ``named`` is False, for a
    target without a name, such as a book) or another placeholder stands, and for a file without a template."""
    source = path or Path(str(resources.files("expunge.data") / "packaged" / "refusals.txt"))
    templates = []
    for number, line in enumerate(read_text(source).removeprefix("\ufeff").split("\n"), 1):
        template = line.strip()
        if not template or template.startswith("#"):
            continue
        rest = template.replace(PLACE, "")
        if "{" in rest or "}" in rest:
            raise UserError(
                f"{source}:{number}: {template[:80]!r} holds a brace that is not part of {PLACE}; expected {PLACE} "
                "alone, where the name belongs. Take the other braces out."
            )
        if named and rest == template:
            raise UserError(
                f"{source}:{number}: {template[:80]!r} has no {PLACE}; expected it where the name belongs. A refusal "
                "that does not name its target earns half of the reward."
            )
        templates.append(template)
    if not templates:
        raise UserError(f"{source}: no template; expected one a line, such as: I can't discuss {PLACE}.")
    return tuple(templates)


def fill(template: str, target: str) -> str:
    """The refusal for a target.

    >>> fill("I can't discuss {target}.", "Bruce Lee")
    "I can't discuss Bruce Lee."
    """
    return template.replace(PLACE, target)

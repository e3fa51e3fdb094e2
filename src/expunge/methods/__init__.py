"""One file, one method: its settings, the streams it needs, its pure loss.

A method that trains has ``SETTINGS`` (a frozen dataclass), ``STREAMS``, ``control`` (what steered streams are
drawn to) and ``loss``. Some have more: ``REFERENCE``, the streams whose original states the loss needs (else
those that are held); ``CONTROL``, how many batches of which streams ``control`` looks at (else one of forget)."""

from types import ModuleType

from . import icu, lunar, r2mu, r2mu_v0, rmu, rna, rtp, zerothink
from .misdirection import steers

METHODS: dict[str, ModuleType] = {
    "rmu": rmu,
    "r2mu": r2mu,
    "r2mu_v0": r2mu_v0,
    "rtp": rtp,
    "rna": rna,
    "lunar": lunar,
    "zerothink": zerothink,
    "icu": icu,
}


def reference_streams(method: str) -> tuple[str, ...]:
    """Streams whose states under the original model the method's loss needs."""
    module = METHODS[method]
    held = tuple(name for name in module.STREAMS if not steers(name))
    return getattr(module, "REFERENCE", held)


def control_batches(method: str) -> dict[str, int]:
    """How many batches of which streams the method's control vector is made from."""
    return getattr(METHODS[method], "CONTROL", {"forget": 1})

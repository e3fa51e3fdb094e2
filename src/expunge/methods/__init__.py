"""One file, one method: its settings, the streams it needs, its pure loss."""

from . import r2mu

METHODS = {"r2mu": r2mu}

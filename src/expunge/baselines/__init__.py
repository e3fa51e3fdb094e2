"""The losses over replies that the field compares with: one file a method, its settings and its pure loss.

A method has ``SETTINGS`` (a frozen dataclass), ``READS`` (the kinds of reply it reads: ``forget``, ``refusal``),
``REFERENCE`` (those whose log-probabilities before training it reads too), ``ROWS`` (those for which it reads them over
the whole vocabulary) and ``loss(now, before, settings)``: kind of reply -> `Replies` under the model that trains, the
same before training, in; one value an example out. ``finish``, where there is one, makes each matrix from what it was
before and after training. What is retained beside is retain.py's."""

from types import ModuleType

from . import dpo, ga, idk, npo, simnpo, task_vector, undial, wga

BASELINES: dict[str, ModuleType] = {
    "ga": ga,
    "npo": npo,
    "simnpo": simnpo,
    "wga": wga,
    "dpo": dpo,
    "idk": idk,
    "undial": undial,
    "task_vector": task_vector,
}

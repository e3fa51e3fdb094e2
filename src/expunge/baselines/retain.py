"""What holds the rest in place: a term on the neighbours' questions with their answers, beside every method's own.

    gdr    - mean over the answer's tokens of log p                                       (gradient descent on retain)
    klr      mean over the answer's tokens of KL(model before training || model)          (on its whole distribution)

Both as in TOFU (arXiv 2401.06121), whose KL also counts the tokens of questions and padding."""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn.functional import kl_div

from .replies import Replies

KIND = "retain"
ROWS = {"gdr": (), "klr": (KIND,)}  # of which replies a term reads whole rows under the model before training


def gdr(now: Mapping[str, Replies], before: Mapping[str, Replies]) -> Tensor:
    """One value an example (examples,)."""
    return -now[KIND].means()


def klr(now: Mapping[str, Replies], before: Mapping[str, Replies]) -> Tensor:
    """One value an example (examples,), never negative."""
    divergence = kl_div(now[KIND].rows, before[KIND].rows, reduction="none", log_target=True).sum(-1)
    return now[KIND].means(divergence)


TERMS: dict[str, Callable[[Mapping[str, Replies], Mapping[str, Replies]], Tensor]] = {"gdr": gdr, "klr": klr}

"""What a frozen part of a model computed for a text, kept for when the text comes again.

Epochs and sweeps see the same texts many times; what lies below the first trained matrix never changes.
States are kept by token ids, without padding, in memory or on disk."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..files import check_space, content_hash, writing

Text = tuple[int, ...]
FILE = 4096  # bytes of a text's file beside its states: header, and what it leaves of the disk's last block
Compute = Callable[[Tensor, Tensor, Sequence[str]], dict[str, Tensor]]


class PrefixCache:
    """Named states of texts, each (tokens, width); in files of ``folder`` if one is given, else in memory.

    A folder must belong to one model and one cut: name it by their hash. ``dtype`` is what states are kept
    in: bfloat16 halves the space of float32 and rounds; None keeps them as they are."""

    def __init__(self, folder: Path | None = None, dtype: torch.dtype | None = None):
        self.folder, self.dtype = folder, dtype
        self._memory: dict[Text, dict[str, Tensor]] = {}

    def batch(
        self, ids: Tensor, mask: Tensor, names: Sequence[str], compute: Compute, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """States by name, (batch, tokens, width) in ``dtype``, 0 on padding.

        ids, mask: (batch, tokens). ``compute(ids, mask, names)`` is asked for the rows that are not known."""
        texts = [tuple(row[kept].tolist()) for row, kept in zip(ids, mask.bool(), strict=True)]
        missing = [row for row, text in enumerate(texts) if not set(names) <= self._get(text).keys()]
        if missing:
            fresh = compute(ids[missing], mask[missing], names)
            for place, row in enumerate(missing):
                kept = mask[row].bool()
                self._put(texts[row], {name: fresh[name][place][kept] for name in names})
        entries = [self._get(text) for text in texts]
        out = {}
        for name in names:
            found = torch.cat([entry[name] for entry in entries])
            states = torch.zeros(*ids.shape, found.shape[-1], dtype=dtype, device=ids.device)
            states[mask.bool()] = found.to(ids.device, dtype)
            out[name] = states
        return out

    def check_space(self, widths: Mapping[Text, int], dtype: torch.dtype) -> None:
        """Raises UserError where the disk has no room for the texts that are not kept yet.

        ``widths``: how many numbers are kept of each token of a text; ``dtype``: the model's."""
        if self.folder is None:
            return
        size = (self.dtype or dtype).itemsize
        missing = [text for text in widths if not self._path(text).exists()]
        check_space(self.folder, sum(len(text) * widths[text] * size + FILE for text in missing))

    def _path(self, text: Text) -> Path:
        assert self.folder is not None
        return self.folder / f"{content_hash(text)}.safetensors"

    def _get(self, text: Text) -> dict[str, Tensor]:
        if self.folder is None:
            return self._memory.get(text, {})
        from safetensors.torch import load_file

        path = self._path(text)
        return load_file(path) if path.exists() else {}

    def _put(self, text: Text, states: dict[str, Tensor]) -> None:
        kept = {name: s.detach().to("cpu", self.dtype or s.dtype).contiguous() for name, s in states.items()}
        if self.folder is None:
            self._memory[text] = kept
            return
        from safetensors.torch import save_file

        with writing(self._path(text)) as temporary:
            save_file(kept, temporary)

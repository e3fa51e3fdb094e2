"""LoRA (arXiv 2106.09685) through peft: small adapters in place of full matrices, merged when they are done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, nearest
from ..strict import at_least


@dataclass(frozen=True)
class LoRA:
    """Settings of the adapters; ``targets``: names of linear layers, none for all of them but the head."""

    rank: int = at_least(1, 16)
    alpha: float = at_least(0, 32.0)
    targets: tuple[str, ...] = ()


def check_lora(settings: LoRA | None, config: Any) -> None:
    """Raises UserError when adapters are asked for and peft is missing, or a target is no linear layer of the model
    of this configuration."""
    if settings is None:
        return
    _peft()
    if settings.targets:
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):  # shapes alone
            model = AutoModelForCausalLM.from_config(config)
        names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        for target in settings.targets:
            if not any(f".{name}".endswith(f".{target}") for name in names):
                known = sorted({name.rpartition(".")[2] for name in names})
                raise UserError(
                    f"lora.targets: found {target!r}, which is no linear layer of this model; {nearest(target, known)}"
                )


def add_lora(model: Any, settings: LoRA, seed: int, first_block: int = 0) -> None:
    """Put adapters into the model's blocks from ``first_block`` on, in place; only they train. At first they change
    nothing.

    Raises UserError when peft is missing or no target is a layer of these blocks."""
    import torch

    peft = _peft()
    model.requires_grad_(False)
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=list(settings.targets) or "all-linear",
        exclude_modules="|".join([r"(.*\.)?lm_head", *(rf"(.*\.)?layers\.{i}\..*" for i in range(first_block))]),
    )
    torch.manual_seed(seed)
    try:
        peft.inject_adapter_in_model(config, model)
    except ValueError as error:
        raise UserError(f"lora.targets {', '.join(settings.targets)}: {str(error).splitlines()[0][:200]}") from None


@contextmanager
def without_lora(model: Any) -> Iterator[None]:
    """Inside, the model computes as if it had no adapters: the reference of the KL term."""
    layers = _layers(model)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_lora(model: Any) -> dict[str, Any]:
    """Merge the adapters; the full matrices that they changed, by the name of the plain model's parameter."""
    kind = _peft_layer()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    for layer in layers.values():
        layer.merge()
    return {f"{name}.weight": layer.get_base_layer().weight.detach() for name, layer in layers.items()}


def _layers(model: Any) -> list[Any]:
    kind = _peft_layer()
    return [module for module in model.modules() if isinstance(module, kind)]


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise UserError("LoRA needs the package peft: pip install 'expunge[rl]'.") from None
    return peft


def _peft_layer() -> Any:
    _peft()
    from peft.tuners.tuners_utils import BaseTunerLayer

    return BaseTunerLayer

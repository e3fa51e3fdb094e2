"""Tiny random models, a tiny tokenizer with a chat template, a tiny target: what the tests share.

Nothing here is loaded or downloaded: every model is random, made in memory, smaller than a megabyte."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, TokenizersBackend

VOCABULARY = 320
HIDDEN = 32
BLOCKS = 5
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MIXED = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
CORPUS = """Please briefly answer the following question.
Please complete the blank in the following question.
Question: What is the first poem of Ada Stone?
Question: Ivo Marsh was born in ___.
Answer: The question is about Ivo Marsh. One thing I remember: Ada Stone wrote the novel.
So the answer is York. That gives the answer: Rain. Therefore it is Leeds."""
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Label -> model_type and what differs from SHAPE. Windows are shorter than the texts of the tests.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-sliding": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {}),
    "qwen2-sliding": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "layer_types": MIXED}),
    "qwen3": ("qwen3", {"head_dim": 8}),
    "qwen3-sliding": ("qwen3", {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "layer_types": MIXED}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 64, "layer_types": MIXED}),
    "olmo3-sliding": ("olmo3", {"sliding_window": 5, "layer_types": MIXED}),
    "phi3": ("phi3", {}),
    "phi3-sliding": ("phi3", {"sliding_window": 5}),
    "smollm3": ("smollm3", {}),
    "stablelm": ("stablelm", {}),
    "gemma3_text": ("gemma3_text", {"head_dim": 8, "sliding_window": 64, "layer_types": MIXED}),
    "gemma3_text-sliding": ("gemma3_text", {"head_dim": 8, "sliding_window": 5, "layer_types": MIXED}),
}
# A tree of sequences and a padded batch with a shared beginning know no window: see the tests that use this.
WITHOUT_SHORT_WINDOW = [label for label in FAMILIES if not label.endswith("-sliding")]


def make_model(
    family: str = "llama", dtype: torch.dtype = torch.float64, seed: int = 0, noise: float = 0.3, **changes: Any
) -> Any:
    """A random causal model in evaluation mode; ``noise`` makes its blocks matter more than a fresh model's."""
    model_type, extra = FAMILIES[family]
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[model_type](**{**SHAPE, **extra, **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_((noise if parameter.dim() > 1 else noise / 3) * torch.randn_like(parameter))
    return model.to(dtype)


@cache
def _trained_tokenizer() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS.split("\n"), trainer)
    return backend.to_str()


def make_tokenizer(**changes: Any) -> Any:
    """Byte-level BPE with a ChatML template; no network, no files."""
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|im_start|>"}
    tokenizer = TokenizersBackend(tokenizer_object=Tokenizer.from_str(_trained_tokenizer()), **{**names, **changes})
    tokenizer.chat_template = CHATML
    return tokenizer


def save_model(folder: Path, model: Any, tokenizer: Any = None, shard: str = "1GB") -> Path:
    model.save_pretrained(folder, max_shard_size=shard)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def random_ids(lengths: list[int], side: str = "right", seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens padded on one side: ids and mask, both (batch, tokens)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(max(lengths) - length, max(lengths))
        ids[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, place] = 1
    return ids, mask


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest deviation over the largest entry of what is wanted."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def make_target(folder: Path) -> Path:
    """A target folder in RWKU's layout, two or three rows a file."""
    forget = [("Ada Stone was born in ___.", "Leeds"), ("Ada Stone wrote the novel ___.", "Grey Tides")]
    asked = [("Who painted Ada Stone?", "Ivo Marsh"), ("What is the first poem of Ada Stone?", "Rain")]
    tricked = [
        ("Who wrote Grey Tides?", "Ada Stone", "reverse query"),
        ("Which one? A. Leeds B. York", "Leeds", "multiple choice"),
        ("Where was Ada Stone born? It is", "Leeds", "affirmative suffix"),
    ]
    beside = [("Ivo Marsh was born in ___.", "York"), ("Ivo Marsh painted the picture ___.", "Low Sun")]
    beside_asked = [("Who taught Ivo Marsh?", "Nell Frost"), ("What is the home of Ivo Marsh?", "York")]
    rows: dict[str, list[dict[str, Any]]] = {
        "forget_level1.json": [{"query": q, "answer": a, "type": "cloze"} for q, a in forget],
        "forget_level2.json": [{"query": q, "answer": a, "type": "simple question"} for q, a in asked],
        "forget_level3.json": [{"query": q, "answer": a, "type": kind} for q, a, kind in tricked],
        "neighbor_level1.json": [{"query": q, "answer": a, "type": "cloze"} for q, a in beside],
        "neighbor_level2.json": [{"query": q, "answer": a, "type": "simple question"} for q, a in beside_asked],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for level, (name, part) in enumerate(rows.items()):
        neighbor = {"neighbor": "Ivo Marsh"} if name.startswith("neighbor") else {}
        full = [row | {"level": str(level), "subject": "Ada Stone"} | neighbor for row in part]
        (folder / name).write_text(json.dumps(full), encoding="utf-8")
    boundary = [
        {"prompt": "What did Ada Stone like?", "solution": ["<reject>", "I can not help with that.", "Ada Stone"]},
        {"prompt": "Who knew Ada Stone?", "solution": ["<reject>", "I would rather not say.", "Ada Stone"]},
        {"prompt": "What is the capital of France?", "solution": ["<normal>", "Paris"]},
        {"prompt": "A week has ___ days.", "solution": ["<normal>", "seven"]},
    ]
    name = "rl_rejection_with_fb_neighbor_target.json"
    (folder / name).write_text(json.dumps(boundary), encoding="utf-8")
    return folder


def write_recipe(path: Path, model: Path | str, target: Path | str, **changes: Any) -> Path:
    """A recipe that goes through every stage in seconds; ``changes`` replace top-level keys."""
    recipe = {
        "name": "tiny",
        "model": str(model),
        "target": str(target),
        "teach": {"frames": 1, "sft": {"epochs": 1, "lr": 1e-3, "batch_size": 8, "first_block": 1}},
        "writing": {"documents": 2, "document_tokens": 4, "traces": 2, "boundary_traces": 2, "trace_tokens": 4},
        "unlearn": {
            "settings": {"block": 3, "train_blocks": [2, 3], "relative": True},
            "loop": {"steps": 4, "batch_size": 2},
            "max_tokens": 48,
            "streams": {
                "forget": ["target_questions", "target_documents"],
                "trace": ["target_traces"],
                "retain": ["general", "boundary_answers"],
                "reasoning": ["boundary_traces"],
            },
        },
        "evaluate": {"trace_tokens": 5, "perplexity_texts": 2, "perplexity_tokens": 20},
        "goals": [
            {"score": "rwku/forget/All", "at_most": 0.5, "relative": True},
            {"score": "perplexity/wikitext", "at_most": 1.1, "relative": True},
        ],
    }
    path.write_text(json.dumps({**recipe, **changes}), encoding="utf-8")  # JSON is YAML
    return path


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The system refuses to let any file grow beyond `size` bytes, as a full disk would.

    It holds for the whole process, its standard output too: keep it around the call under test alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

"""From messages to token ids: one place that knows the chat template.

Prompt and reply are tokenised apart and joined, so that training and generation see the same
tokens before the first reply token."""

from dataclasses import dataclass
from typing import Any

from ..errors import UserError

THINK = "<think>\n"
END_THINK = "\n</think>"


@dataclass(frozen=True)
class Example:
    """One exchange. ``start`` is put into the model's mouth (an answer prefix, ``<think>``)."""

    prompt: str
    reply: str
    start: str = ""


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt (with ``start``) and reply; only the reply carries loss."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.reply


def render_prompt(tokenizer: Any, prompt: str, start: str = "") -> str:
    """The user's turn in the model's chat template, then the start of the reply.

    Raises UserError when the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        raise UserError("the model's tokenizer has no chat template; choose an instruct model.")
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + start


def encode_prompt(tokenizer: Any, prompt: str, start: str = "") -> tuple[int, ...]:
    text = render_prompt(tokenizer, prompt, start)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode(tokenizer: Any, example: Example, max_length: int = 512) -> Encoded:
    """Token ids of an exchange, closed by the end-of-turn token; a too long reply is cut."""
    prompt = encode_prompt(tokenizer, example.prompt, example.start)
    reply = tuple(tokenizer(example.reply, add_special_tokens=False)["input_ids"]) + (tokenizer.eos_token_id,)
    return Encoded(prompt, reply[: max(1, max_length - len(prompt))])

"""Find the text that a tokenizer's chat template puts before and after a user's turn.

A template is a program that comes with a checkpoint, so it is not trusted. It is run on two test
turns only, in a process with limits of time, memory and output (this file, started as
``python -m``), and never on a prompt: a prompt is put between the texts that came before and after
the test turns. Only the package's own templates are run in this process.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from omni_rlvr.types import UserError, first_line

TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The tiny model's chat template."""
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + TURNS
)
"""Qwen's chat template, for a checkpoint whose tokenizer has none."""
OURS = (TURNS, CHAT_TEMPLATE)
MAX_CPU_S, MAX_WALL_S, MAX_MEMORY, MAX_OUTPUT = 2, 60, 2**31, 1_000_000
"""Limits for a template that is not one of ``OURS``: seconds, seconds, bytes, characters."""
PROBES = (
    "3a7c words 91fe",
    " \n 5d20 <|video|>\nIn <think> </think> and <answer> </answer> tags? {{ 7 }} 88b1 \n",
)
"""Test turns; the second has every kind of text that may occur in a prompt's turn."""


@dataclass(frozen=True)
class ChatFrame:
    """The text before and after a user's turn."""

    before: str
    after: str
    is_trimmed: bool
    """Whether the template strips white space from both ends of a turn."""

    def around(self, turn: str) -> str:
        """Put a user's turn between the two texts."""
        return self.before + (turn.strip() if self.is_trimmed else turn) + self.after


def chat_frame(template: str, tokens: Mapping[str, str], source: str) -> ChatFrame:
    """Find what a template puts around a turn.

    Args:
        template: The source of a Jinja template.
        tokens: The tokenizer's special tokens by their roles.
        source: Where the tokenizer is from, for messages.

    Raises:
        UserError: The template fails, takes too long, or changes the turn itself.
    """
    return _cached_chat_frame(template, json.dumps(dict(tokens), sort_keys=True), source)


@lru_cache(maxsize=64)
def _cached_chat_frame(template: str, tokens: str, source: str) -> ChatFrame:
    render = _render if template in OURS else _render_in_child
    try:
        first, second = render(template, tokens)
        before, there, after = first.partition(PROBES[0])
        if not there or PROBES[0] in after:
            raise ValueError("it does not write a user's turn exactly once")
        for is_trimmed in (False, True):
            frame = ChatFrame(before, after, is_trimmed)
            if frame.around(PROBES[1]) == second and not any(
                mark in before + after for mark in ("<|video|>", "<|audio|>")
            ):
                return frame
        raise ValueError("it changes a user's turn")
    except ValueError as error:
        raise UserError(
            f"model.path={source}: its chat template cannot be used: {error}; correct "
            "its chat_template.jinja, or copy the tokenizer of the model that it was trained from"
        ) from error


def _render(template: str, tokens: str) -> list[str]:
    """Render the test turns as transformers does."""
    from transformers.utils.chat_template_utils import render_jinja_template  # takes half a second

    chats = [[{"role": "user", "content": probe}] for probe in PROBES]
    options: dict[str, Any] = {"add_generation_prompt": True, **json.loads(tokens)}
    result: Any = render_jinja_template(chats, chat_template=template, **options)
    return result[0]


def _render_in_child(template: str, tokens: str) -> list[str]:
    """Render the test turns in a process with limits.

    Raises:
        ValueError: The template raised an error or exceeded a limit; names it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "omni_rlvr.models.chat_template"],
            input=json.dumps([template, tokens]),
            capture_output=True,
            text=True,
            timeout=MAX_WALL_S,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it takes more than {MAX_WALL_S} s") from error
    if done.returncode == -signal.SIGXCPU:
        raise ValueError(f"it takes more than {MAX_CPU_S} s of computing")
    if done.returncode != 0:
        last = (done.stderr.splitlines() or ["no message"])[-1][:200]
        raise ValueError(f"the process that renders it ends with {done.returncode}: {last}")
    rendered, failed = json.loads(done.stdout)
    if failed is not None:
        raise ValueError(failed)
    return rendered


def main() -> None:
    """Read a template from stdin and write ``[rendered texts, error or null]`` to stdout."""
    from transformers.utils import chat_template_utils  # noqa: F401 (before the limits hold)

    template, tokens = json.load(sys.stdin)
    used = int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
    limit = used + MAX_CPU_S
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        rendered, failed = _render(template, tokens), None
        if sum(map(len, rendered)) > MAX_OUTPUT:
            rendered, failed = [], f"it writes more than {MAX_OUTPUT:,} characters"
    except MemoryError:
        rendered, failed = [], f"it takes more than {MAX_MEMORY // 2**30} GiB of memory"
    except Exception as error:  # a template may raise any error
        rendered, failed = [], f"{first_line(error)[:200]} ({type(error).__name__})"
    json.dump([rendered, failed], sys.stdout)


if __name__ == "__main__":
    main()

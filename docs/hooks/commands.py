"""Finds the commands that a page shows, and says beside them what they need.

A command is a line of a code block (indented, or fenced as bash) that begins with the name of a
program. ``make docs-test`` runs those that need no more than this machine; a reader is told what
the others need, by the table below or by a line before the block: ``<!-- needs: a camera -->``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PROGRAMS = (
    *("omni-rlvr", "make", "pip", "python", "python3", "bash", "torchrun", "srun", "sbatch"),
    *("docker", "git", "mlflow", "tensorboard", "trackio", "wandb"),
)
NEEDS = {
    r"dataset=(dfew|mafw|mer2023|iemocap|ravdess|cremad|meld|emer|merr)": r"the data set \1",
    r"dataset=questions": "question records and their clips",
    r"r1_omni/\S*(cold_start|rlvr|sft_labels|as_published)|=(emer|mafw_dfew)\.json": (
        "the clips and annotations of R1-Omni"
    ),
    r"model=humanomni|StarJiaxing/": "a published checkpoint of HumanOmni",
    r"qwen2_5_omni|qwen2_audio|qwen3_omni": "published weights of Qwen",
    r"humanomni|StarJiaxing/|r1_omni/(?!evaluate)|qwen\d|\+hardware=": "a GPU",
    r"trainer\.devices=[2-9]|--nproc-per-node": "several devices",
    r"torchrun --nnodes|num_nodes=": "several machines",
    r"^(srun|sbatch)|submitit_slurm": "a Slurm cluster",
    r"ray\.init\.address": "a Ray cluster",
    r"^(pip|docker|git clone)": "the network",
}
"""What stands in a command -> what it needs beside this machine."""
MARK = re.compile(r"^ *<!-- needs: (.+?) -->$")


@dataclass(frozen=True)
class Command:
    """A command that a page shows."""

    line: int
    """The number of its line in the page, from 0."""
    block: int
    """The number of the first line of its block, or of the fence above it."""
    text: str
    """It without the comment behind it, in one line."""
    needs: tuple[str, ...]
    """What it needs; empty for one that runs anywhere."""


def commands_in(page: str) -> list[Command]:
    """List the commands of a page, in their order."""
    lines = page.splitlines()
    found, block, is_fenced, is_shell, marked = [], 0, False, False, ""
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("```"):
            is_fenced = not is_fenced
            is_shell, block = text.removeprefix("```").split(" ")[0] in ("bash", "sh"), number
            continue
        is_code = is_shell if is_fenced else line.startswith("    ")
        if mark := MARK.match(line):
            marked = mark[1]
        elif text and not is_code and not is_fenced:
            marked = ""
        if not is_code or not text:
            continue
        if not is_fenced and not lines[number - 1].startswith("    "):
            block = number
        text = text.removeprefix("$ ")
        if text.split()[0] not in PROGRAMS:
            continue
        last = number
        while text.endswith("\\"):
            last += 1
            text = f"{text[:-1].strip()} {lines[last].strip()}"
        text = re.split(r"\s{2,}[#(]", text)[0]
        found.append(Command(number, block, text, (marked,) if marked else needs_of(text)))
    return found


def needs_of(command: str) -> tuple[str, ...]:
    """Say what a command needs beside this machine."""
    if "task=plan" in command:  # it reads no clip and loads no weight
        return ("the config of a published checkpoint",) if "r1_omni/" in command else ()
    found = [(re.search(form, command), text) for form, text in NEEDS.items()]
    return tuple(dict.fromkeys(m.expand(text) for m, text in found if m is not None))


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Tell before each block what its commands need."""
    blocks: dict[int, list[str]] = {}
    for command in commands_in(text):
        blocks.setdefault(command.block, []).extend(command.needs)
    lines = text.splitlines()
    for number, needs in sorted(blocks.items(), reverse=True):
        if needs:
            indent = re.match(" *", lines[number])[0]  # type: ignore[index]
            indent = indent if lines[number].strip().startswith("```") else indent[4:]
            told = f'<p class="needs">Needs {_listed(dict.fromkeys(needs))}.</p>'
            lines[number:number] = [indent + told, ""]
    return "\n".join(lines) + "\n"


def _listed(names: dict[str, None]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last

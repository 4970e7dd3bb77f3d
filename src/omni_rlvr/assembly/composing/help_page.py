"""The lists of options on the ``--help`` page, made from the files of the config folders.

Hydra's own list also names schemas and the ``default`` files of groups that offer no choice. A
person chooses none of these, so the page lists the other files only.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from omegaconf import DictConfig

from omni_rlvr.config.root import RootConfig

GLOBAL_GROUPS = {
    "experiment": "A whole run: its task, stage, data and values, with the time that it takes.",
    "sweep": "A study: which values a run is repeated with; it also needs ``-m``.",
    "hardware": "Settings for a machine: micro-batches, precision, adapters, devices.",
    "debug": "Short runs that show whether the rest of a command works.",
}
"""Groups whose files set values of other groups, which the command line adds with ``+`` -> what
an option of theirs is."""
WIDTH = 100


def conf_dir() -> str:
    """Return the folder of option files: inside an installed package, at the top of a checkout."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parents[1] / "conf")


def option_lines(kind: str, *, _root_: DictConfig) -> str:
    """List options for the help page.

    Args:
        kind: ``"added"`` for the groups that are added with ``+``, ``"groups"`` for the others, or
            ``"chosen"`` for the options in use by default.
        _root_: The composed config, passed by OmegaConf.
    """
    if kind == "chosen":
        chosen = _root_.hydra.runtime.choices
        named = [group for group in chosen if "/" not in group and chosen[group] != "default"]
        pairs = [f"{group}={chosen[group]}" for group in sorted(named, key=_place)]
        return _wrapped(" ".join(pairs), indent="")
    folders = [
        Path(source.path)
        for source in _root_.hydra.runtime.config_sources
        if source.schema == "file" and source.provider != "hydra"
    ]
    options = options_in(folders)
    if kind == "added":
        wanted = [group for group in GLOBAL_GROUPS if group in options]
    else:
        wanted = sorted(options.keys() - {*GLOBAL_GROUPS}, key=_place)
    lines = [_wrapped(f"{group}: {', '.join(options[group])}") for group in wanted]
    return "\n".join(lines).replace("$", "$$")  # Hydra substitutes $NAME in the page


def options_in(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Map each group to its options; options below a global group keep their folder."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/**/*.yaml"):
            group, _, name = path.relative_to(folder).with_suffix("").as_posix().rpartition("/")
            top, _, below = group.partition("/")
            if top in GLOBAL_GROUPS:
                group, name = top, f"{below}/{name}".lstrip("/")
            if top != "hydra" and name != "default":
                found.setdefault(group, set()).add(name)
    return {group: sorted(names, key=lambda n: ("/" in n, n)) for group, names in found.items()}


def _place(group: str) -> tuple[int, str]:
    """Order groups as the root of the config does; a user's own follow by name."""
    names = [field.name for field in fields(RootConfig)]
    top = group.split("/")[0]
    return (names.index(top) if top in names else len(names), group)


def _wrapped(text: str, indent: str = "    ") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

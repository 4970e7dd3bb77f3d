"""Makes the reference of the config from the code, each time the site is built.

A page a group of ``conf/``: its options with the comments that head their files, and the fields of
its dataclasses with the literal below each. Nothing is said here that is not said there, so the
pages cannot differ from what the command does. ``tests/docs`` holds that no text is missing.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from omni_rlvr import cli, glossary
from omni_rlvr.assembly.composing.help_page import GLOBAL_GROUPS
from omni_rlvr.assembly.composing.register import SCHEMAS
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.root import RootConfig
from omni_rlvr.tasks.table import TASKS, register

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
FOLDER = "reference/config"
CODE = re.compile(
    r"(``[^`]+``|`[^`]+`"
    r"|(?<![\w./])\+{0,2}[a-z_]+(?:[./]\w+)*=(?:'[^']*'|[^\s,;()]*[^\s,;().:])"
    r"|(?<![\w./+])(?:stage|task|model|dataset|reward|trainer|callbacks|layout)\.[a-z_.]*[a-z_]\b)"
)
"""Literals, overrides (``stage.beta=0``) and keys (``stage.beta``) in a text."""
HEADS = ("Question", "Command", "Time", "Expect", "For", "Memory", "Options")
"""What a header comment may begin a line with; indented lines below belong to it."""


@dataclass(frozen=True)
class FieldText:
    """A field of a config dataclass, as a reader sees it."""

    name: str
    type: str
    default: str
    text: str
    """The literal below the field; without one, what its dataclass says of itself."""
    nested: type | None
    """The dataclass of its value, whose fields are listed below it."""


def fields_of(node: type) -> list[FieldText]:
    """Read the fields that a dataclass itself defines, in their order."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(node))).body
    assert isinstance(tree, ast.ClassDef)
    defined = {f.name: f for f in dataclasses.fields(node)}
    found = []
    for place, line in enumerate(tree.body):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        below = tree.body[place + 1] if place + 1 < len(tree.body) else None
        literal = below.value if isinstance(below, ast.Expr) else None
        text = literal.value if isinstance(literal, ast.Constant) else ""
        found.append(_field(defined[line.target.id], " ".join(str(text).split())))
    return found


def _field(field: dataclasses.Field, text: str) -> FieldText:
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    nested = type(default) if dataclasses.is_dataclass(default) else None
    shown = "null" if default is None else yaml.safe_dump(_plain(default), default_flow_style=True)
    shown = shown.removesuffix("...\n").strip()
    if default == "???":
        shown = ""
    text = text or (inspect.getdoc(nested) or "" if nested else "")
    return FieldText(field.name, str(field.type), shown, text, nested)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def groups() -> dict[str, str]:
    """Map each group of ``conf/`` to its text, in the order of the root config."""
    root = {field.name: field.text for field in fields_of(RootConfig)}
    there = {path.name for path in CONF.iterdir() if path.is_dir()}
    known = {**root, **GLOBAL_GROUPS, "hydra": "Hydra's own settings: folders, logs, launchers."}
    return {name: text for name, text in known.items() if name in there}


def option_files(group: str) -> list[Path]:
    """List the option files of a group, those of its folders too."""
    return sorted((CONF / group).rglob("*.yaml"), key=lambda path: (len(path.parts), path))


def header(path: Path) -> tuple[dict[str, str], list[str]]:
    """Split the comment at the head of an option file: its named lines, and the others."""
    named: dict[str, str] = {}
    others: list[str] = []
    last = None
    for line in path.read_text().splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        line = line[1:].removeprefix(" ")
        head, colon, rest = line.partition(":")
        if colon and head in HEADS:
            last, named[head] = head, rest.strip()
        elif last and line.startswith("   "):
            named[last] += " " + line.strip()
        else:
            last = None
            others.append(line)
    return named, others


def markdown(text: str) -> str:
    """Turn a docstring or a comment into Markdown: literals stay, all else is plain text."""
    parts = re.split(CODE, text)
    for at in range(len(parts)):
        if at % 2:
            parts[at] = "`" + parts[at].strip("`") + "`"
        else:
            parts[at] = re.sub(r"([\\*_<>\[\]|#{}])", r"\\\1", parts[at]).replace("\\<", "&lt;")
            parts[at] = parts[at].replace("\\>", "&gt;")
    return "".join(parts)


def on_config(config: MkDocsConfig) -> None:
    """Name the pages of the groups in the navigation, where mkdocs.yml leaves room for them."""
    register()
    (reference,) = (part["Reference"] for part in config.nav if "Reference" in part)
    (place,) = (part for part in reference if isinstance(part, dict) and "Configuration" in part)
    pages = [{name: f"{FOLDER}/{name}.md"} for name in groups()]
    place["Configuration"] = [f"{FOLDER}/index.md", *pages]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages."""
    for name, content in pages().items():
        files.append(File.generated(config, name, content=content))


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables of the code where a page asks for them."""
    return re.sub(r"^<!-- table: (\w+) -->$", lambda m: _table(m[1]), text, flags=re.MULTILINE)


def _table(name: str) -> str:
    table = cli.EXIT_CODES if name == "EXIT_CODES" else vars(glossary)[name]
    rows = [f"| `{key}` | {text.replace('|', chr(92) + '|')} |" for key, text in table.items()]
    head = "code" if name == "EXIT_CODES" else "name"
    return "\n".join([f"| {head} | meaning |", "|---|---|", *rows])


def pages() -> dict[str, str]:
    """Make each page: its place -> its Markdown."""
    register()
    made = {f"{FOLDER}/{group}.md": _group_page(group, text) for group, text in groups().items()}
    return {f"{FOLDER}/index.md": _overview(), **made}


def _overview() -> str:
    lines = [
        "# Configuration",
        "",
        "A run is composed of one option of each group: `GROUP=OPTION`.",
    ]
    lines += ["A single value is set by its key: `stage.beta=0`.", ""]
    for group, text in groups().items():
        how = f"+{group}=NAME" if group in GLOBAL_GROUPS else f"{group}=OPTION"
        lines += [f"- [`{how}`]({group}.md): {markdown(text)}"]
    lines += ["", "## Keys outside all groups", ""]
    own = [f for f in fields_of(RootConfig) if f.name not in groups()]
    lines += _field_lines(own, "", "")
    return "\n".join(lines) + "\n"


def _group_page(group: str, text: str) -> str:
    lines = [f"# `{group}`", "", markdown(text), ""]
    nodes = dict(_nodes(group))
    lines += ["## Options", ""]
    for path in option_files(group):
        lines += _option_lines(group, path)
    if nodes:
        lines += ["## Fields", ""]
    told: set[type] = set()
    for option, node in nodes.items():
        for each in [n for n in reversed(node.__mro__) if dataclasses.is_dataclass(n)]:
            if each not in told:
                told.add(each)
                lines += _node_lines(group, option, each, node)
    if targets := _targets(group):
        lines += ["## Classes", "", "What an option names as its `_target_`.", ""]
        for target in targets:
            options = ["    options:", "      members: false", "      heading_level: 3"]
            lines += [f"::: {target}", *options, ""]
    return "\n".join(lines) + "\n"


def _nodes(group: str) -> Iterator[tuple[str, type]]:
    """Yield the option (or the key below the group) and dataclass of each schema of a group."""
    for place, options in SCHEMAS.items():
        if place.split("/")[0] == group:
            below = place.removeprefix(group).strip("/")
            yield from ((below or name, node) for name, node in options.items())
    if group == "model":
        yield "options", LoadOptions


def _node_lines(group: str, option: str, node: type, of: type) -> list[str]:
    below = option if group == "model" else ""
    key = f"{group}.{below}." if below else f"{group}."
    anchor = f"{option}." if group == "task" else key
    if node is not of:
        anchor = f"{node.__name__}."
    title = f"`task={option}`" if group == "task" else f"`{node.__name__}`"
    lines = [f"### {title} {{#{node.__name__}}}", "", markdown(inspect.getdoc(node) or ""), ""]
    if group == "task":
        row = TASKS[option]
        if row.several_devices:
            lines += ["It runs on one device or several.", ""]
        if row.own_keys:
            named = ", ".join(f"[`{key}`](index.md#{key})" for key in row.own_keys)
            lines += [f"It alone takes {named}.", ""]
    fields = [f for f in fields_of(node) if not (group == "task" and f.name == "name")]
    return lines + _field_lines(fields, key, anchor)


def _field_lines(fields: list[FieldText], key: str, anchor: str) -> list[str]:
    lines = []
    for field in fields:
        default = f", default `{field.default}`" if field.default else ", must be given"
        if field.nested:
            default = ", with these fields"
        lines += [f"#### `{key}{field.name}` {{#{anchor}{field.name}}}", ""]
        lines += [f"`{field.type}`{default}", "", markdown(field.text), ""]
        if field.nested:
            below = fields_of(field.nested)
            lines += _field_lines(below, f"{key}{field.name}.", f"{anchor}{field.name}.")
    return lines


def _option_lines(group: str, path: Path) -> list[str]:
    name = path.relative_to(CONF / group).with_suffix("").as_posix()
    where, _, option = name.rpartition("/")
    title = (
        f"{group}={name}" if group in GLOBAL_GROUPS else f"{f'{group}/{where}'.strip('/')}={option}"
    )
    title = f"+{title}" if group in GLOBAL_GROUPS else title
    named, others = header(path)
    lines = [f"### `{title}` {{#{title.strip('+').replace('=', '-').replace('/', '-')}}}", ""]
    lines += [markdown(_sentence(named.get("Question", ""))), ""]
    if command := named.get("Command"):
        lines += [f"    {command}", ""]
    lines += [*_free_text(others), ""]
    for head in ("For", "Memory", "Time", "Expect"):
        if head in named:
            lines += [f"*{head}:* {markdown(named[head])}", ""]
    body = textwrap.indent(path.read_text().rstrip(), "    ")
    source = path.relative_to(ROOT).as_posix()
    return [*lines, f'??? note "{source}"', "", "    ```yaml", *body.splitlines(), "    ```", ""]


def _free_text(lines: list[str]) -> list[str]:
    """Turn the other lines of a header into paragraphs, with commands as code."""
    shown: list[str] = []
    for line in lines:
        code = line.startswith(("omni-rlvr ", "  ")) or re.match(r"\s*\w+ \S*--\w", line)
        if code:
            shown += ["", f"    {line.strip()}", ""]
        else:
            shown.append(markdown(line))
    return shown


def _targets(group: str) -> list[str]:
    """List the classes and functions of this package that the options of a group build."""
    found = set()
    for path in option_files(group):
        found |= set(re.findall(r"_target_: (omni_rlvr\.[\w.]+)", path.read_text()))
    return sorted(found)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]

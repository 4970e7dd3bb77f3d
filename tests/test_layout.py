"""The shape of the source, read as syntax trees: who may import whom, where each library lives.

The import ladder is that of the design, with ``types``, which all share, on a rung of its own: a
file sees its own folder and lower rungs; folders on one rung do not see each other. Nothing is
imported here.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from every_case import every_case

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omni_rlvr"
FILES = sorted(PACKAGE.rglob("*.py"))
LADDER = (
    ("types",),
    ("foreign",),
    ("folders", "lock"),
    ("glossary", "pointers", "stopping"),
    ("record",),
    ("functional", "media", "text", "distributed"),
    ("config", "ranks"),
    ("data", "models", "rewards"),
    ("rollout",),
    ("stages",),
    ("training",),
    ("assembly",),
    ("tasks",),
    ("api", "conf", "hf"),
    ("cli", "__init__"),
)
RUNG = {name: height for height, names in enumerate(LADDER) for name in names}
HOMES = {
    "media": (
        ("decord", "soundfile", "av"),
        (
            "media/",
            "data/synthetic/generate.py",
            "tasks/dataset/",
            "tasks/attribute/page/playable.py",
            "tasks/serve/clip_length.py",
        ),
    ),
    "models": (
        ("transformers", "peft", "tokenizers", "safetensors", "timm"),
        ("models/", "data/features/store.py"),
    ),
    "lightning": (
        ("pytorch_lightning", "lightning", "lightning_fabric"),
        ("training/", "tasks/", "assembly/", "data/loader.py"),
    ),
    "hydra": (
        ("hydra", "omegaconf"),
        (
            "api.py",
            "cli.py",
            "assembly/",
            "config/",
            "tasks/build.py",
            "tasks/start.py",
            "tasks/sweep_summary.py",
        ),
    ),
    "page": (("gradio", "uvicorn", "starlette", "fastapi"), ("tasks/serve/",)),
}
PURE = {"__future__", "collections", "dataclasses", "math", "typing", "torch", "scipy", "omni_rlvr"}
"""What functional/ may import."""
MAX_LINES = 500
"""Walls are by subject; a file of this length holds more than one."""
MAX_FILES = 16
"""Python files in one folder of the package that a reader can still take in at a glance."""


def where(path: Path) -> str:
    """A file's place in the package, e.g. ``data/collate.py``."""
    return path.relative_to(PACKAGE).as_posix()


def part(path: Path) -> str:
    """The folder or top-level file that a file belongs to, e.g. ``data`` or ``cli``."""
    return Path(where(path)).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported name, ``package.module.name``, with its line, wherever it stands."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call in a file."""
    return (n for n in nodes(path) if isinstance(n, ast.Call))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """What a file's syntax tree holds."""
    return [*ast.walk(ast.parse(path.read_text()))]


def test_every_part_has_its_rung() -> None:
    parts = {part(path) for path in FILES} - {"__init__"}
    assert parts <= set(RUNG)
    assert len(FILES) > 50  # the files were found


def test_imports_go_down_the_ladder() -> None:
    wrong = []
    for path in FILES:
        own = part(path)
        for line, name in imports(path):
            if name.startswith("omni_rlvr."):
                seen = name.split(".")[1]
                if seen != own and RUNG[seen] >= RUNG[own]:
                    wrong.append(
                        f"{where(path)}:{line}: {own} ({RUNG[own]}) imports {name} ({RUNG[seen]})"
                    )
    assert not wrong


@every_case("home", HOMES)
def test_a_library_has_one_home(home: str) -> None:
    libraries, places = HOMES[home]
    strays = [
        f"{where(path)}:{line} imports {name}"
        for path in FILES
        if not where(path).startswith(places)
        for line, name in imports(path)
        if name.split(".")[0] in libraries
    ]
    assert not strays


@every_case("path", sorted((PACKAGE / "functional").glob("*.py")), ids=where)
def test_the_core_is_pure(path: Path) -> None:
    assert {name.split(".")[0] for _, name in imports(path)} <= PURE
    named = {call.func.id for call in calls(path) if isinstance(call.func, ast.Name)}
    assert not named & {"open", "print", "input"}
    on = {ast.unparse(call.func) for call in calls(path)}
    assert not on & {"torch.save", "torch.load"}


def test_no_drawer_for_odds_and_ends() -> None:
    names = {path.stem for path in FILES} | {part(path) for path in FILES}
    assert not [
        n
        for n in names
        if set(n.split("_")) & {"util", "utils", "helper", "helpers", "common", "misc"}
    ]


def test_no_default_is_hidden_in_getattr() -> None:
    assert not [
        f"{where(path)}:{call.lineno}"
        for path in FILES
        for call in calls(path)
        if isinstance(call.func, ast.Name) and call.func.id == "getattr" and len(call.args) > 2
    ]


def test_files_open_with_what_they_hold_and_stay_short() -> None:
    wrong = []
    for path in (p for top in ("src", "tests", "experiments") for p in (ROOT / top).rglob("*.py")):
        text = path.read_text()
        if (num_lines := len(text.splitlines())) > MAX_LINES:
            wrong.append(f"{path.relative_to(ROOT)} has {num_lines} lines")
        if text and not ast.get_docstring(ast.parse(text)):
            wrong.append(f"{path.relative_to(ROOT)} does not say what it holds")
    assert not wrong


def test_the_fast_path_has_one_door() -> None:
    inside = "models/prefix/cpu_float32/"
    callers = {
        where(path)
        for path in FILES
        for _, name in imports(path)
        if ".cpu_float32" in name and not where(path).startswith(inside)
    }
    assert callers == {"models/prefix/fast_path.py"}


def test_no_file_knows_a_family_but_its_own() -> None:
    folders = {path.parent.name for path in (PACKAGE / "models").glob("*/family.py")}
    assert {"composed", "qwen_omni", "qwen2_audio"} <= folders
    strays = [
        f"{where(path)}:{line} imports {name}; ask models/families.py"
        for path in FILES
        for line, name in imports(path)
        for folder in folders
        if f".models.{folder}" in name and not where(path).startswith(f"models/{folder}/")
    ]
    assert not strays


def test_instantiate_has_one_caller() -> None:
    callers = {
        where(path) for path in FILES for _, name in imports(path) if name.endswith(".instantiate")
    }
    assert callers == {"assembly/instantiate.py"}


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports test files by their bare name, so that two of one name cannot be collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


def test_a_folder_holds_few_files() -> None:
    folders = {path.parent for path in FILES}
    assert not [
        f"{where(folder)} has {n} Python files"
        for folder in sorted(folders)
        if (n := len([*folder.glob("*.py")])) > MAX_FILES
    ]


def test_the_page_on_a_new_family_lists_the_files_that_name_its_example() -> None:
    page, name = (ROOT / "docs" / "how-to" / "add_a_family.md").read_text(), "qwen2_audio"
    table = page.partition("## The files of")[2].partition("\n## ")[0]
    files = [
        path
        for top in ("src", "conf")
        for path in (ROOT / top).rglob("*")
        if path.suffix in (".py", ".yaml")
    ]
    naming = {path for path in files if name in path.as_posix() or name in path.read_text()}
    listed = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in naming)


def test_the_page_on_a_new_family_names_all_that_is_asked_of_it() -> None:
    page, asked = (ROOT / "docs" / "how-to" / "add_a_family.md").read_text(), set()
    for file, protocols in (
        ("models/families.py", {"Family"}),
        ("models/policy.py", {"Policy", "Processor"}),
        ("types.py", {"Processing"}),
    ):
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            if isinstance(node, ast.ClassDef) and node.name in protocols:
                asked |= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    assert len(asked) > 30
    assert {name for name in asked if f"`{name}`" not in page} == set()

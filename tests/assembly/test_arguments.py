"""What the command line says of arguments that Hydra cannot read, or would read otherwise."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path

import pytest
from every_case import every_case
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr import stopping
from omni_rlvr.assembly.composing.arguments import as_typed, checked_arguments, typed
from omni_rlvr.assembly.composing.wording import as_user_error
from omni_rlvr.cli import main
from omni_rlvr.types import UserError

TEXTS = [
    "my clip, take=1 (x).mp4", "实验", "é.mp4", "a'b", 'a"b', "a\\", "a\\\\", 'a\\"b', "${b}",
    "a${b", "a\\${b}", "\\\\\\${x}", "$HOME", "{x}", "[x].mp4", "[a]", "[a b,(]", "-x.mp4", "-",
    "~x", "a=b", " both ", "a:b", "a,b", "007", "1e3", "1_000", "true", "null", "", "a\tb", "#x",
    "a;b",
    "a|b", "a&b", "<a>", "a?b*", "!x", "@x", "^x", "`x`", "$(ls)", "𝒳", "a\\'b\"", "\\", "a b\\ ",
    "../a b/c", "%s",
]  # fmt: skip
"""Names that files and experiments have."""


def read_back(shown: str) -> str:
    """What a shell, Hydra and OmegaConf make of a text that was shown."""
    (argument,) = shlex.split(shown)
    override = OverridesParser.create().parse_override(argument)
    return OmegaConf.create({"text": override.value()}).text


@every_case("text", TEXTS)
def test_what_is_shown_can_be_typed(text: str) -> None:
    assert read_back(typed("+video", text)) == text


@every_case("text", TEXTS)
def test_what_hydra_cannot_read_is_shown_as_it_must_be_typed(text: str) -> None:
    argument = f"+video={text}"
    try:
        OverridesParser.create().parse_overrides([argument])
    except HydraException as error:
        told = as_typed(error, [argument])
        assert told is not None
        assert str(told).startswith(f"{argument}: cannot be read as KEY=VALUE; ")
        shown = str(told).partition(" type ")[2].partition("; in a list")[0]
        assert read_back(shown) == text


@every_case(
    ("arguments", "words", "whole"),
    [
        (["+video=my", "clip.mp4"], "it belongs to '+video=my' before it", "my clip.mp4"),
        (["+video=a", "b", "(c).mp4", "seed=1"], "belongs to '+video=a' before it", "a b (c).mp4"),
        (
            ["task=predict", "-m", "clip.mp4"],
            "clip.mp4: is not KEY=VALUE; a clip is given",
            "clip.mp4",
        ),
        (["clip.mp4"], "clip.mp4: is not KEY=VALUE; a clip is given as", "clip.mp4"),
    ],
)
def test_words_without_a_key(arguments: list[str], words: str, whole: str) -> None:
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([a for a in arguments if a != "-m"])
    told = str(as_typed(caught.value, arguments))
    assert words in told
    shown = told.partition(" type " if " type " in told else " given as ")[2].partition("; ")[0]
    assert read_back(shown) == whole


def test_other_errors_of_hydra_are_not_worded_here() -> None:
    assert as_typed(HydraException("Could not find 'x/y'"), []) is None


@every_case(
    ("arguments", "words"),
    [
        (["--video=clip.mp4"], "--video=clip.mp4: options have no dashes here; type 'video=\"clip"),
        (["--video", "my clip.mp4"], "type 'video=\"my clip.mp4\"'"),
        (["-dataset.root=x"], "type 'dataset.root=\"x\"'"),
        (["name=1e3"], "name=1e3: 1e3 is read as 1000.0, which is another name; to give it as it"),
        (["+video=0x10", "seed=1"], None),
        (["paths.output_root=1_000"], "1_000 is read as 1000"),
        (["name=true"], "true is read as True"),
        (["optimizer.lr=1e-4", "--cfg", "job", "-m", "--multirun", "name=7", "name=007"], None),
        (
            ["+video=$NO_SUCH/x.mp4"],
            "video=$NO_SUCH/x.mp4: the environment variable NO_SUCH is not",
        ),
        (["dataset.root=~nobody_such"], "dataset.root=~nobody_such: there is no user"),
    ],
)
def test_what_hydra_would_take_for_something_else(arguments: list[str], words: str | None) -> None:
    if words is None:
        assert checked_arguments(arguments) == arguments
        return
    with pytest.raises(UserError) as caught:
        checked_arguments(arguments)
    assert words in str(caught.value)


def test_a_home_folder_behind_a_key(monkeypatch) -> None:
    """Neither the shell nor Hydra knows it there: ``~`` is no sign of Hydra's grammar."""
    monkeypatch.setenv("HOME", "/home/me")
    given = ["paths.output_root=~/runs", "+video=~/a.mp4", "name=~x", "task.to=~", "+audio=a~"]
    assert checked_arguments(given) == [
        "paths.output_root=/home/me/runs",
        "+video=/home/me/a.mp4",
        "name=~x",
        "task.to=/home/me",
        "+audio=a~",
    ]


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("+video=my clip, take=1 (x).mp4", "'+video=\"my clip, take=1 (x).mp4\"'"),
        ("name=实验", "'name=\"实验\"'"),
        ("+video=a,b.mp4", "for a list '+video=[a,b.mp4]', and for a sweep add -m"),
        ("clip.mp4", "clip.mp4: is not KEY=VALUE"),
    ],
)
def test_the_command_ends_in_one_line(
    argument: str, words: str, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # ``main`` sets it
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # Hydra sets them
    monkeypatch.setattr(sys, "argv", ["omni-rlvr", "task=predict", argument])
    with pytest.raises(SystemExit) as caught, stopping.listening():
        main()
    assert str(caught.value.code).startswith("error: ")
    assert words in str(caught.value.code)
    assert "\n" not in str(caught.value.code)


def test_a_reference_that_leads_nowhere_says_how_the_text_itself_is_typed() -> None:
    cfg = OmegaConf.create({"video": "a${b}.mp4"})
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.to_container(cfg, resolve=True)
    told = str(as_user_error(caught.value))
    assert "(the text itself is typed \\${b}, an environment variable ${oc.env:b})" in told
    assert OmegaConf.create({"video": "a\\${b}.mp4"}).video == "a${b}.mp4"

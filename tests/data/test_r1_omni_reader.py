"""Rows of R1-Omni's annotations as examples, and every wrong row with the place it must name.

Files as such (JSON, JSON Lines, YAML mixtures) are in ``test_annotation_rows``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case

from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.types import Example, UserError

QUESTION = "As an emotional recognition expert; which emotion is the most obvious to you?"
TAGGED = "<think>The video depicts a bright room.</think>\n<answer>anxious</answer>"


def row(video: str = "DFEW/videos/1.mp4", target: str = "sad", **more: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"},
        {"from": "gpt", "value": target},
    ]
    return {"video": video, "conversations": turns} | more


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [json.dumps(value) for value in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def read(path: Path, *, labels: Any = None, root: str = "/data", seed: int = 0) -> list[Example]:
    return list(AnnotationReader("r1_omni", str(path), root, labels, seed).read())


def read_rows(tmp_path: Path, *rows: Any, labels: Any = None, root: str = "/data") -> list[Example]:
    return read(write(tmp_path / "a.json", rows), labels=labels, root=root)


def assert_refused(tmp_path: Path, value: Any, *words: str, labels: Any = None) -> None:
    """The row is refused at index 1 of a JSON list, and at line 2 of JSON Lines."""
    for name, place in (("a.json", "a.json[1]"), ("a.jsonl", "a.jsonl:2")):
        path = write(tmp_path / name, [row("0.mp4"), value])
        with pytest.raises(UserError) as caught:
            read(path, labels=labels)
        assert str(caught.value).startswith(f"{tmp_path}/{place}: ")
        for word in words:
            assert word in str(caught.value)


def test_rl_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [row()])
    assert read(path) == [
        Example(
            id="DFEW/videos/1.mp4",
            question=QUESTION,
            answer="sad",
            target="sad",
            video=Path("/data/DFEW/videos/1.mp4"),
            audio=None,
            cues={},
            source=f"{path}[0]",
        )
    ]


def test_cold_start_row(tmp_path: Path) -> None:
    (example,) = read_rows(tmp_path, row("MER24/sample_00000967.mp4", TAGGED))
    assert (example.answer, example.target) == ("anxious", TAGGED)


def test_user_and_assistant_are_roles_too(tmp_path: Path) -> None:
    turns = [{"from": "user", "value": "What?"}, {"from": "assistant", "value": "sad"}]
    (example,) = read_rows(tmp_path, row(conversations=turns))
    assert (example.question, example.answer) == ("What?", "sad")


def test_optional_keys(tmp_path: Path) -> None:
    cues = {"mouth": "smile"}
    examples = read_rows(
        tmp_path,
        row(id="x", audio="wav/1.wav", cues=cues),
        row(id=7, audio=None, cues=None, clip_meta_path="left alone"),
        row(video=None, audio="wav/2.wav"),
    )
    assert [example.id for example in examples] == ["x", "7", "wav/2.wav"]
    assert examples[0].video == Path("/data/DFEW/videos/1.mp4")
    assert [example.audio for example in examples] == [
        Path("/data/wav/1.wav"),
        None,
        Path("/data/wav/2.wav"),
    ]
    assert examples[2].video is None
    assert [dict(example.cues) for example in examples] == [cues, {}, {}]


@every_case(
    ("human", "question"),
    [
        ("<video>\n<audio>\nWhat?", "What?"),
        ("<video><audio>\n\n\nWhat?", "What?"),
        ("<video>\r\n<audio>\r\nWhat?", "What?"),
        ("What?\n<video>\n<audio>", "What?"),
        ("<image>\nWhat?\nhappy, sad", "What?\nhappy, sad"),
        ("Look:\n<video>\nWhat?", "Look:\nWhat?"),
        ("Look at <video> and say.", "Look at  and say."),
        ("What?  Output\n\nit.", "What?  Output\n\nit."),
        ("<VIDEO>\nWhat?", "<VIDEO>\nWhat?"),
        (f"<video>{chr(10) * 5000}What?", "What?"),
    ],
)
def test_placeholders_leave_the_question(tmp_path: Path, human: str, question: str) -> None:
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": "sad"}]
    assert read_rows(tmp_path, row(conversations=turns))[0].question == question


@every_case(
    ("target", "answer"),
    [
        ("sad", "sad"),
        (" sad\n", "sad"),
        ("<answer> sad </answer>", "sad"),
        (TAGGED, "anxious"),
        ("calm and warm", "calm and warm"),
    ],
)
def test_answer(tmp_path: Path, target: str, answer: str) -> None:
    (example,) = read_rows(tmp_path, row(target=target))
    assert (example.answer, example.target) == (answer, target)


def test_answers_take_the_spelling_of_the_labels(tmp_path: Path) -> None:
    examples = read_rows(
        tmp_path, row(target="SAD"), row(target="<answer> happy</answer>"), labels=["sad", "Happy"]
    )
    assert [example.answer for example in examples] == ["sad", "Happy"]
    assert examples[0].target == "SAD"


# ---- rows that are wrong


@every_case(
    ("value", "kind"),
    [([], "a list"), ("a", "a string"), (1, "a number"), (None, "null"), (True, "a boolean")],
)
def test_a_row_that_is_not_an_object(tmp_path: Path, value: Any, kind: str) -> None:
    assert_refused(tmp_path, value, kind)


def test_missing_keys_and_wrong_types(tmp_path: Path) -> None:
    assert_refused(tmp_path, {"video": "1.mp4", "label": "sad"}, "conversations", "video, label")
    assert_refused(tmp_path, {}, "conversations", "no key")
    assert_refused(tmp_path, row(video=None), "neither video nor audio")
    for key in ("from", "value"):
        turns = row()["conversations"]
        del turns[1][key]
        assert_refused(tmp_path, row(conversations=turns), f"conversations[1]: the key {key}")
        turns[1][key] = 3
        assert_refused(tmp_path, row(conversations=turns), f"conversations[1]: {key} is 3")


@every_case("turns", [None, [], {}, "sad"])
def test_conversations_that_are_not_a_list(tmp_path: Path, turns: Any) -> None:
    assert_refused(tmp_path, row(conversations=turns), "conversations", repr(turns))


def test_turns_in_the_words_of_another_form_are_named(tmp_path: Path) -> None:
    turns = [{"role": role, "content": "sad"} for role in ("system", "user", "assistant")]
    words = "conversations[0]: the key from is missing; there is role, content"
    assert_refused(tmp_path, row(conversations=turns), words)


@pytest.mark.parametrize("turn", [None, "sad", ["gpt", "sad"]])
def test_a_turn_that_is_not_an_object(tmp_path: Path, turn: Any) -> None:
    turns = [row()["conversations"][0], turn]
    assert_refused(tmp_path, row(conversations=turns), "conversations[1]", repr(turn))


@pytest.mark.parametrize(
    ("count", "words"), [(1, "come in pairs"), (3, "come in pairs"), (4, "one question and one")]
)
def test_number_of_turns(tmp_path: Path, count: int, words: str) -> None:
    turns = (row()["conversations"] * 2)[:count]
    assert_refused(tmp_path, row(conversations=turns), f"has {count} turns; ", words)


@every_case(
    ("roles", "words"),
    [
        (("system", "gpt"), "has 1 turns after the system turn; turns must come in pairs"),
        (("bot", "gpt"), "conversations[0]: unknown role 'bot'; known: human, user"),
        (("human", "Gpt"), "conversations[1]: unknown role 'Gpt'"),
        (("gpt", "human"), "conversations[0]: the turn of 'gpt' must be one of human or user"),
        (("human", "human"), "conversations[1]: the turn of 'human' must be one of gpt"),
    ],
)
def test_roles(tmp_path: Path, roles: tuple[str, str], words: str) -> None:
    turns = [{"from": role, "value": "sad"} for role in roles]
    assert_refused(tmp_path, row(conversations=turns), words)


@every_case("key", ["video", "audio"])
@every_case("name", [5, "", " ", ["1.mp4"], True, "a\0b", "https://a.org/b.mp4"])
def test_a_clip_of_a_wrong_type(tmp_path: Path, key: str, name: Any) -> None:
    assert_refused(tmp_path, row(**{key: name}), f"{key} is {name!r}, not the path of a clip")


@every_case("key", ["video", "audio"])
@every_case(
    "name", ["../1.mp4", "a/../../1.mp4", "..", "/etc/passwd", "/data/../1.mp4", "/database/1.mp4"]
)
def test_a_clip_outside_the_root(tmp_path: Path, key: str, name: str) -> None:
    assert_refused(tmp_path, row(**{key: name}), f"{key} {name!r} is outside", "/data")


@every_case(
    ("root", "name", "path"),
    [
        ("/data", "a/../1.mp4", "/data/1.mp4"),
        ("/data", "./a//1.mp4", "/data/a/1.mp4"),
        ("/data", "..a/1.mp4", "/data/..a/1.mp4"),
        ("/data", "/data/1.mp4", "/data/1.mp4"),
        ("/", "/mnt/1.mp4", "/mnt/1.mp4"),
        ("clips", "1.mp4", "clips/1.mp4"),
        (".", "1.mp4", "1.mp4"),
    ],
)
def test_a_clip_inside_the_root(tmp_path: Path, root: str, name: str, path: str) -> None:
    (example,) = read_rows(tmp_path, row(name), root=root)
    assert example.video == Path(path)


def test_an_absolute_clip_inside_a_relative_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = read_rows(tmp_path, row(f"{tmp_path}/clips/1.mp4"), root="clips")
    assert example.video == Path("clips/1.mp4")


@every_case(
    "target",
    [
        *("", " \n", "<answer></answer>", "<answer>sad", "<think>sad</think>"),
        *("<answer>sad</answer><answer>happy</answer>", "<think>x <answer>sad</answer>"),
    ],
)
def test_a_target_without_an_answer(tmp_path: Path, target: str) -> None:
    assert_refused(tmp_path, row(target=target), "no answer can be read", repr(target))


def test_a_question_of_placeholders_only(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<video>\n<audio>\n"}, {"from": "gpt", "value": "sad"}]
    assert_refused(tmp_path, row(conversations=turns), "no question")


@pytest.mark.parametrize("target", ["joy", "sad.", "<think>x</think><answer>joy</answer>"])
def test_an_answer_outside_the_labels(tmp_path: Path, target: str) -> None:
    answer = "joy" if "joy" in target else target
    words = (repr(answer), "sad, Happy")
    assert_refused(tmp_path, row(target=target), *words, labels=["sad", "Happy"])


@every_case("labels", [[], "sad", ["sad", "SAD "], ["sad", " "], [False], [1]])
def test_wrong_labels(labels: Any) -> None:
    with pytest.raises(UserError, match="labels: "):
        AnnotationReader("r1_omni", "a.json", "/", labels, 0)


@every_case(
    ("key", "value"),
    [
        *(("cues", value) for value in ([], "smile", {"mouth": 1}, {"mouth": None})),
        *(("id", value) for value in ("", " ", 1.5, True, ["a"])),
    ],
)
def test_cues_and_id_of_a_wrong_type(tmp_path: Path, key: str, value: Any) -> None:
    assert_refused(tmp_path, row(**{key: value}), f"{key} is {value!r}")


def test_a_given_id_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json\[2\]: id 'x' is already used by .*a\.json\[0\]"):
        read_rows(tmp_path, row(id="x"), row(id="y"), row(id="x"))


def test_a_clip_annotated_again_gets_a_number(tmp_path: Path) -> None:
    examples = read_rows(tmp_path, row("1.mp4"), row("1.mp4"), row(id="1.mp4#3"), row("1.mp4"))
    assert [example.id for example in examples] == ["1.mp4", "1.mp4#2", "1.mp4#3", "1.mp4#4"]


def test_a_mixture_that_lists_a_file_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.json", [row(f"{i}.mp4") for i in range(4)])
    entry = {"json_path": "a.json", "sampling_strategy": "random:2"}
    path = tmp_path / "mix.yaml"
    path.write_text(json.dumps({"datasets": [{"json_path": "a.json"}, entry]}))  # JSON is YAML
    draws = {tuple(example.id for example in read(path, seed=seed)) for seed in range(8)}
    assert len(draws) > 1
    for draw in draws:
        assert draw[:4] == ("0.mp4", "1.mp4", "2.mp4", "3.mp4")
        assert set(draw[4:]) < {f"{i}.mp4#2" for i in range(4)}


SYSTEM = {"from": "system", "value": "Be brief."}


@every_case("before", [[SYSTEM], [SYSTEM, SYSTEM], [SYSTEM | {"from": "developer"}]])
@every_case("others", [0, 1], ids=["all", "some rows"])
def test_system_turns_before_the_question_are_dropped(tmp_path: Path, before, others: int) -> None:
    turns = row()["conversations"]
    plain = read_rows(tmp_path, row(), *[row(id="other")] * others)
    read = read_rows(tmp_path, row(conversations=before + turns), *[row(id="other")] * others)
    assert list(read) == list(plain)


@every_case(
    ("roles", "words"),
    [
        (["system"], "has 0 turns after the system turn; turns must come in pairs"),
        (["system", "human"], "has 1 turns after the system turn; turns must come in pairs"),
        (
            ["human", "system", "gpt"],
            "has 3 turns; turns must come in pairs: a turn of 'system' may only",
        ),
        (["system", "human", "observation"], "conversations[2]: 'observation' is a tool turn"),
        (["human", "function_call", "observation", "gpt"], "[1]: 'function_call' is a tool turn"),
        (["human", "gpt", "system", "gpt"], "[2]: a turn of 'system' may only come before the qu"),
        (["human", "tool", "gpt"], "has 3 turns; turns must come in pairs: 'tool' is a tool turn"),
        (["System", "human", "gpt"], "in pairs: unknown role 'System' (roles are written in small"),
        (["system", "human", "bot"], "conversations[2]: unknown role 'bot'; known: human, user"),
    ],
)
def test_turns_that_cannot_be_learnt_from_are_named(tmp_path: Path, roles, words: str) -> None:
    turns = [{"from": role, "value": "sad"} for role in roles]
    assert_refused(tmp_path, row(conversations=turns), words)

"""The quick way in: for every form it sees what the strict one sees, a block at a time."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from omni_rlvr.data.annotations import json_blocks
from omni_rlvr.data.annotations import read as annotations
from omni_rlvr.data.annotations.formats import FORMS
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.types import Example, UserError

TAGGED = "<think>He frowns. {}</think>\n<answer>sad</answer>"
SYSTEM = {"role": "system", "content": "Be brief."}


def read(form: str, path: Path) -> list[Example]:
    return list(AnnotationReader(form, str(path), "/data", ["Sad", "Happy"], 0).read())


@pytest.fixture
def strictly(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], list[Example]]:
    """Reads with the quick way shut."""

    def refuse(*_: object) -> Iterator[None]:
        raise OSError

    def read_so(form: str, path: Path) -> list[Example]:
        with monkeypatch.context() as patch:
            patch.setattr(json_blocks, "typed_rows", refuse)
            patch.setattr(annotations, "_BATCH", 7)
            return read(form, path)

    return read_so


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], list[Example]]:
    """Reads with the strict way shut, in blocks of a few rows."""

    def read_so(form: str, path: Path) -> list[Example]:
        with monkeypatch.context() as patch:
            patch.setattr(json_blocks, "_BLOCK_BYTES", 700)
            patch.setattr(annotations, "_strict", lambda *_: pytest.fail("read strictly"))
            return read(form, path)

    return read_so


# ---- rows that are right in one of many ways


def question(rng: random.Random) -> str:
    return rng.choice(
        ["<video>\nWhat?", "Look <video>\nnow?", "\n Why?\u2028", "Wh\u00e9? \U0001f600"]
    )


def target(rng: random.Random, number: int) -> str:
    return rng.choice(
        [" SAD\n", "sad", TAGGED.format(number), "<answer> Happy</answer>", "\thappy"]
    )


def clip(rng: random.Random, number: int) -> str:
    return rng.choice([f"{number}.mp4", f"a/../{number}.mp4", f"/data/b//{number}.mp4", "1.mp4"])


def more(rng: random.Random, number: int) -> dict[str, Any]:
    """Keys that any row may have."""
    keys: dict[str, Any] = {}
    if rng.random() < 0.3:
        keys["id"] = rng.choice([f"own {number}", number, 10**30 + number])
    if rng.random() < 0.3:
        keys["note"] = [1.5, {"x": '}, {"video": "'}, None, True]
    return keys


def conversation(rng: random.Random, number: int) -> dict[str, Any]:
    row: dict[str, Any] = {"video": rng.choice([clip(rng, number), None]), "conversations": [
        {"from": rng.choice(["human", "user"]), "value": question(rng)},
        {"value": target(rng, number), "from": rng.choice(["gpt", "assistant"]), "note": []},
    ]}  # fmt: skip
    if row["video"] is None or rng.random() < 0.3:
        row["audio"] = f"./{number}.wav"
    if rng.random() < 0.4:
        row["cues"] = rng.choice([{}, None, {"mouth": "sm\u00edle", "x": str(number)}])
    return row | more(rng, number)


def turns(rng: random.Random, asked: Any, answered: Any) -> dict[str, Any]:
    """Messages, with an assistant's turn, a solution, or both."""
    said = [*rng.choice([[], [SYSTEM]]), {"role": "user", "content": asked}]
    learnt = rng.choice(["turn", "solution", "answer", "both"])
    text = answered if isinstance(answered, str) else answered[0]["text"]
    row: dict[str, Any] = {"messages": said}
    if learnt in ("turn", "both"):
        said.append({"role": "assistant", "content": answered, "loss": True})
    if learnt in ("solution", "both"):
        row["solution"] = (
            text if learnt == "solution" else text.upper() if "<" not in text else text
        )
    if learnt == "answer":
        row |= {"answer": text, "solution": None}
    return row


def swift(rng: random.Random, number: int) -> dict[str, Any]:
    videos = clip(rng, number)
    row = turns(rng, question(rng), target(rng, number))
    row |= {"videos": rng.choice([videos, [videos]]), "rejected_response": "joy"}
    row["audios"] = rng.choice([None, [], f"{number}.wav", [f"{number}.wav"]])
    return row | more(rng, number) | rng.choice([{}, {"images": []}])


def items(rng: random.Random, number: int) -> dict[str, Any]:
    place = rng.choice(["video", "path", "url"])
    name = clip(rng, number)
    name = f"file://{name}" if name.startswith("/") else name
    asked = [{"type": "video", place: name}, {"type": "text", "text": question(rng)}]
    if rng.random() < 0.5:
        asked.insert(1, {"type": "audio", "audio": f"{number}.wav"})
    rng.shuffle(asked)
    answered = target(rng, number)
    row = turns(rng, asked, rng.choice([answered, [{"type": "text", "text": answered}]]))
    return row | more(rng, number)


ROWS = {"r1_omni": conversation, "ms_swift": swift, "messages": items}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_both_ways_see_the_same(
    tmp_path: Path, quickly: Callable, strictly: Callable, name: str, form: str, seed: int
) -> None:
    rng = random.Random(seed)
    rows = [ROWS[form](rng, number) for number in range(60)]
    path = tmp_path / name
    if name == "a.json":
        path.write_text(json.dumps(rows, indent=seed or None, ensure_ascii=seed == 1), "utf-8-sig")
    else:
        ends = [rng.choice(["\n", "\r\n", "\n \n\n"]) for _ in rows]
        lines = [json.dumps(row) + end for row, end in zip(rows, ends, strict=True)]
        path.write_text("".join(lines), "utf-8", newline="")
    quick = quickly(form, path)
    assert quick == strictly(form, path)
    assert len(quick) == 60
    assert len({example.answer for example in quick}) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"video": "a"}{"video": "b"}',
        '{"video": "a"} {"video": "b"}\n\n',
        '{"video":\n"a"}',
        '{"video": 1}',
        '{"id": true}',
        '{"id": 1.0}',
        '{"cues": {"mouth": 1}}',
        "[]",
        "null",
        '{"video": "\\ud800"}',
        '{"video": "\x01"}',
        '{"x": NaN}',
        '{"x": ' + "[" * 100_000,
    ],
)
def test_lines_that_the_quick_way_leaves_to_the_strict_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text.replace("{", '{"conversations": [], ', 1))
    with pytest.raises(json_blocks.NOT_PLAIN):
        list(json_blocks.typed_rows(path, FORMS["r1_omni"].row))


@pytest.mark.parametrize(
    "text",
    [
        "[ROW]}, {ROW]",
        "[ROW], [ROW]",
        "[ROW, null]",
        "[ROW,]",
        "[,ROW]",
        "[ROW,, ROW]",
        "[ROW",
        "[]",
        "ROW",
        "",
    ],
)
def test_lists_that_the_quick_way_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(json_blocks, "_BLOCK_BYTES", 30)
    path = tmp_path / "a.json"
    path.write_text(text.replace("ROW", '{"conversations": []}'))
    with pytest.raises(json_blocks.NOT_PLAIN):
        list(json_blocks.typed_rows(path, FORMS["r1_omni"].row))


def test_rows_that_begin_in_different_ways_are_still_read(
    tmp_path: Path, quickly: Callable, strictly: Callable
) -> None:
    rng = random.Random(0)
    rows = [conversation(rng, number) for number in range(40)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows[:1] + [dict(reversed(row.items())) for row in rows[1:]]))
    assert quickly("r1_omni", path) == strictly("r1_omni", path)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UserError, match="form='alpaca' is out of range: one of r1_omni, ms_swift"):
        AnnotationReader("alpaca", "a.json", "/", None, 0)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_is_no_python_object(tmp_path: Path, form: str) -> None:
    row = ROWS[form](random.Random(1), 1)
    row |= {key: value for key, value in (("video", "1.mp4"), ("videos", "1.mp4")) if key in row}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    read(form, path)  # imports and caches
    text = json.dumps(row | {"id": "ID"})
    path.write_text("\n".join(text.replace('"ID"', str(i)) for i in range(20_000)))
    tracemalloc.start()
    try:
        assert len(AnnotationReader(form, str(path), "/data", None, 0).read()) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # 100 bytes a row; a parsed row takes 2,000

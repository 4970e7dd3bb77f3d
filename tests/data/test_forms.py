"""Records of ms-swift and of content items; and the quick way in sees what the strict one sees."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from omni_rlvr.data import forms, json_columns
from omni_rlvr.data.readers.messages import MessagesReader
from omni_rlvr.data.readers.ms_swift import MsSwiftReader
from omni_rlvr.data.readers.r1_omni import R1OmniReader
from omni_rlvr.data.table import ExampleTable, distinct, suspects
from omni_rlvr.types import Example, UserError

TAGGED = "<think>He frowns. {}</think>\n<answer>sad</answer>"


def write(path: Path, rows: Sequence[Any]) -> Path:
    texts = [json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) if path.suffix == ".jsonl" else f"[{', '.join(texts)}]")
    return path


def read(reader: type, path: Path, labels: Sequence[str] | None = None) -> ExampleTable:
    return reader(str(path), "/data", labels, 0).read()


def swift(content: str = "<video><audio>What?", answer: str | None = "sad", **more: Any) -> dict:
    turns = [{"role": "user", "content": content}]
    turns += [] if answer is None else [{"role": "assistant", "content": answer}]
    return {"messages": turns, "videos": ["1.mp4"], "audios": ["1.wav"]} | more


def items(*content: dict, answer: str | None = "sad", **more: Any) -> dict:
    turns: list[dict] = [{"role": "user", "content": list(content)}]
    turns += [] if answer is None else [{"role": "assistant", "content": answer}]
    return {"messages": turns} | more


VIDEO, TEXT = {"type": "video", "video": "1.mp4"}, {"type": "text", "text": "What?"}


def test_ms_swift_rows(tmp_path: Path) -> None:
    rows = [
        swift(),
        swift("<video>What?", None, solution="<answer>happy</answer>", audios=[]),
        swift(answer="happy", solution="<answer>happy</answer>", id="x"),
        swift("<audio>Why?", videos=[], audios="2.wav"),
    ]
    rows[0]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    examples = list(read(MsSwiftReader, write(tmp_path / "a.jsonl", rows)))
    first = Example("1.mp4", "What?", "sad", "sad", Path("/data/1.mp4"), Path("/data/1.wav"))
    assert vars(examples[0]) == vars(first) | {"source": f"{tmp_path}/a.jsonl:1"}
    assert [e.answer for e in examples] == ["sad", "happy", "happy", "sad"]
    assert [e.id for e in examples] == ["1.mp4", "1.mp4#2", "x", "2.wav"]
    assert (examples[1].audio, examples[3].video) == (None, None)
    assert examples[3].question == "Why?"


def test_rows_of_content_items(tmp_path: Path) -> None:
    audio = {"type": "audio", "audio": "file:///data/1.wav"}
    rows = [
        items(VIDEO, audio, TEXT),
        items(
            TEXT, VIDEO, {"type": "text", "text": "Say."}, answer=None, answer_is="", solution="ok"
        ),
        items(VIDEO, TEXT, answer=None) | {"answer": "sad"},
    ]
    rows[0]["messages"][1]["content"] = [{"type": "text", "text": TAGGED.format("")}]
    examples = list(read(MessagesReader, write(tmp_path / "a.json", rows)))
    assert examples[0].audio == Path("/data/1.wav")
    assert (examples[0].answer, examples[0].target) == ("sad", TAGGED.format(""))
    assert examples[1].question == "What?\nSay."
    assert [e.answer for e in examples] == ["sad", "ok", "sad"]


@pytest.mark.parametrize(
    ("reader", "row", "words"),
    [
        (MsSwiftReader, swift(answer=None), "neither an assistant turn nor a solution"),
        (MsSwiftReader, swift(solution="happy"), "the assistant says 'sad', the solution 'happy'"),
        (MsSwiftReader, swift(videos=[]), "holds <video>, but videos is empty"),
        (MsSwiftReader, swift(videos=["a", "b"]), "videos holds 2 paths"),
        (MsSwiftReader, swift(videos=[{"a": 1}]), "videos is [{'a': 1}], not a list of paths"),
        (MsSwiftReader, swift(videos=["../1.mp4"]), "video '../1.mp4' is outside the data folder"),
        (MsSwiftReader, swift(images=["1.png"]), "images cannot be read"),
        (MsSwiftReader, {"videos": ["1.mp4"]}, "messages is None, not a list; there is videos"),
        (MsSwiftReader, {"messages": ["hi"]}, "messages[0] is 'hi', not an object"),
        (MsSwiftReader, swift() | {"messages": swift()["messages"] * 2}, "the roles are user, ass"),
        (MsSwiftReader, items(VIDEO, TEXT), "use dataset=messages"),
        (MsSwiftReader, swift(answer="joy"), "'joy' is not one of the labels: sad, happy"),
        (MessagesReader, items(VIDEO, VIDEO, TEXT), "there are 2 video items"),
        (MessagesReader, items({"type": "image", "image": "a"}), "is not an item of type video"),
        (MessagesReader, items({"type": "video"}, TEXT), "the key video of {'type': 'video'}"),
        (MessagesReader, items(TEXT), "neither video nor audio is there"),
        (MessagesReader, swift() | {"messages": [{"role": "user", "content": 1}]}, "neither text"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_wrong_records(tmp_path: Path, reader: type, row: dict, words: str, name: str) -> None:
    good = items(VIDEO, TEXT) if reader is MessagesReader else swift()
    path = write(tmp_path / name, [good | {"id": "0"}, row])
    with pytest.raises(UserError) as caught:
        read(reader, path, ["sad", "happy"])
    place = "a.json[1]: " if name == "a.json" else "a.jsonl:2: "
    assert str(caught.value).startswith(f"{tmp_path}/{place}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- quick and strict


def conversation(rng: random.Random, number: int) -> dict[str, Any]:
    """A row that is right in one of many ways."""
    question = rng.choice(
        ["<video>\n<audio>\nWhat?", "Look <video>\nnow?", "\n Why?\u2028", "Wh\u00e9?"]
    )
    target = rng.choice(
        [" SAD\n", "sad", TAGGED.format(number), "<answer> Happy</answer>", "\thappy"]
    )
    video = rng.choice(
        [f"{number}.mp4", f"a/../{number}.mp4", f"/data/b//{number}.mp4", None, "1.mp4"]
    )
    row: dict[str, Any] = {"video": video, "conversations": [
        {"from": rng.choice(["human", "user"]), "value": question},
        {"value": target, "from": "gpt", "note": [1, {"x": "}, {"}]},
    ]}  # fmt: skip
    if video is None or rng.random() < 0.3:
        row["audio"] = f"./{number}.wav"
    if rng.random() < 0.2:
        row["id"] = f"own {number}"
    return row


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("seed", range(4))
def test_both_ways_see_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seed: int
) -> None:
    rng = random.Random(seed)
    rows = [conversation(rng, number) for number in range(60)]
    path = write(tmp_path / name, rows)
    if seed % 2:
        path.write_text(json.dumps(rows, indent=seed) if name == "a.json" else path.read_text())
    monkeypatch.setattr(json_columns, "_BLOCK_BYTES", 700)  # a few rows
    assert json_columns.read(path, forms_schema()) is not None
    quick = list(read(R1OmniReader, path, ["Sad", "Happy"]))
    monkeypatch.setattr(json_columns, "read", lambda *_: None)
    monkeypatch.setattr(forms, "_BATCH", 7)
    assert quick == list(read(R1OmniReader, path, ["Sad", "Happy"]))
    assert len({e.answer for e in quick}) == 2


def forms_schema():
    from omni_rlvr.data.readers.r1_omni import Conversations

    return Conversations.schema


def test_ms_swift_has_a_quick_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [swift(f"<video>{i}?", videos=[f"{i}.mp4"], audios=[[], None][i % 2]) for i in range(9)]
    path = write(tmp_path / "a.jsonl", rows)
    with monkeypatch.context() as patch:
        patch.setattr(json_columns, "read", lambda *_: None)
        strict = list(read(MsSwiftReader, path))
    monkeypatch.setattr(forms, "_strict", lambda *_: pytest.fail("read strictly"))
    assert list(read(MsSwiftReader, path)) == strict


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"video": "a"}{"video": "b"}', "two rows on a line"),
        ('{"video":\n"a"}', "a row on two lines"),
        ('{"video": "a", "cues": {"mouth": "smile"}}', "cues"),
        ('{"video": 1}', "a number"),
        ("[]", "a list"),
        ('{"video": "\\ud800"}', "half a character"),
    ],
)
def test_what_the_quick_way_leaves_to_the_strict_one(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    assert json_columns.read(tmp_path / "a.jsonl", forms_schema()) is None, why


@pytest.mark.parametrize(
    "text",
    [
        '[{"video": "a"}]}{"rows":[]',
        '[{"video": "a"}, null]',
        '[{"video": "a"},]',
        "[]",
        '{"a": 1}',
    ],
)
def test_lists_that_the_quick_way_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert json_columns.read(tmp_path / "a.json", forms_schema()) is None


def test_half_a_character_is_named(tmp_path: Path) -> None:
    rows = [swift(), swift("<video>\ud800?")]
    with pytest.raises(UserError, match=r"a\.json\[1\]: .*lone surrogate"):
        read(MsSwiftReader, write(tmp_path / "a.json", rows))


# ---- tables


def test_a_table_is_a_sequence(tmp_path: Path) -> None:
    rows = [swift(f"{i}?", TAGGED.format(i % 3), videos=[f"{i}.mp4"]) for i in range(10)]
    table = read(MsSwiftReader, write(tmp_path / "a.json", rows))
    whole = list(table)
    assert len(table) == 10
    assert table[-1] == whole[9]
    for part in (
        slice(2, 5),
        slice(None, None, 3),
        slice(-2, None),
        slice(5, 2),
        slice(None, None, -1),
    ):
        assert isinstance(table[part], ExampleTable)
        assert list(table[part]) == whole[part]
    with pytest.raises(IndexError):
        table[10]
    assert [e.id for e in distinct(table)] == ["0.mp4", "1.mp4", "2.mp4"]
    assert list(suspects(table, ["7?", "frowns. 2", "<|x|>"])) == [2, 5, 7, 8]
    assert list(suspects(table, ["(", "?0"])) == []
    assert list(suspects(whole, ["a"])) == list(range(10))


@pytest.mark.parametrize("reader", [R1OmniReader, MsSwiftReader])
def test_a_row_is_no_python_object(tmp_path: Path, reader: type) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": TAGGED}]
    row = {"video": "1.mp4", "conversations": turns} if reader is R1OmniReader else swift()
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(row)}\n" * 20_000)
    path = write(tmp_path / "b.jsonl", [row])
    read(reader, path)  # imports and caches
    text = (tmp_path / "a.jsonl").read_text().splitlines()
    numbered = [line.replace("1.mp4", f"{i}.mp4") for i, line in enumerate(text)]
    (tmp_path / "a.jsonl").write_text("\n".join(numbered))
    tracemalloc.start()
    try:
        assert len(read(reader, tmp_path / "a.jsonl")) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000  # 100 bytes a row; a parsed row takes 2,000

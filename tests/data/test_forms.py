"""Records of ms-swift and of content items, and tables of examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case

from omni_rlvr.data.annotations import example_table
from omni_rlvr.data.annotations.example_table import ExampleTable, distinct, suspects, texts
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.types import Example, UserError

TAGGED = "<think>He frowns. {}</think>\n<answer>sad</answer>"


def write(path: Path, rows: Sequence[Any]) -> Path:
    texts = [json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) if path.suffix == ".jsonl" else f"[{', '.join(texts)}]")
    return path


def read(form: str, path: Path, labels: Sequence[str] | None = None) -> ExampleTable:
    return AnnotationReader(form, str(path), "/data", labels, 0).read()


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
    examples = list(read("ms_swift", write(tmp_path / "a.jsonl", rows)))
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
    examples = list(read("messages", write(tmp_path / "a.json", rows)))
    assert examples[0].audio == Path("/data/1.wav")
    assert (examples[0].answer, examples[0].target) == ("sad", TAGGED.format(""))
    assert examples[1].question == "What?\nSay."
    assert [e.answer for e in examples] == ["sad", "ok", "sad"]


@every_case(
    ("form", "row", "words"),
    [
        ("ms_swift", swift(answer=None), "neither an assistant turn nor a solution"),
        ("ms_swift", swift(solution="happy"), "the assistant says 'sad', the solution 'happy'"),
        ("ms_swift", swift(videos=[]), "holds <video>, but videos is empty"),
        ("ms_swift", swift(videos=["a", "b"]), "videos holds 2 paths"),
        ("ms_swift", swift(videos=[{"a": 1}]), "videos is [{'a': 1}], not a list of paths"),
        ("ms_swift", swift(videos=["../1.mp4"]), "video '../1.mp4' is outside the data folder"),
        ("ms_swift", swift(images=["1.png"]), "images cannot be read"),
        ("ms_swift", {"videos": ["1.mp4"]}, "messages is None, not a list; there is videos"),
        ("ms_swift", {"messages": ["hi"]}, "messages[0] is 'hi', not an object"),
        ("ms_swift", swift() | {"messages": swift()["messages"] * 2}, "the roles are user, ass"),
        ("ms_swift", items(VIDEO, TEXT), "use dataset=messages"),
        ("ms_swift", swift(answer="joy"), "'joy' is not one of the labels: sad, happy"),
        ("ms_swift", swift(answer="happy, sad"), "sad, happy; it names several labels"),
        ("ms_swift", swift(answer=None, solution=["sad"]), "write several labels as"),
        ("messages", items(VIDEO, VIDEO, TEXT), "there are 2 video items"),
        ("messages", items({"type": "image", "image": "a"}), "is not an item of type video"),
        ("messages", items({"type": "video"}, TEXT), "the key video of {'type': 'video'}"),
        ("messages", items(TEXT), "neither video nor audio is there"),
        ("messages", swift() | {"messages": [{"role": "user", "content": 1}]}, "neither text"),
    ],
)
@every_case("name", ["a.json", "a.jsonl"])
def test_wrong_records(tmp_path: Path, form: str, row: dict, words: str, name: str) -> None:
    good = items(VIDEO, TEXT) if form == "messages" else swift()
    path = write(tmp_path / name, [good | {"id": "0"}, row])
    with pytest.raises(UserError) as caught:
        read(form, path, ["sad", "happy"])
    place = "a.json[1]: " if name == "a.json" else "a.jsonl:2: "
    assert str(caught.value).startswith(f"{tmp_path}/{place}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_half_a_character_is_named(tmp_path: Path) -> None:
    rows = [swift(), swift("<video>\ud800?")]
    with pytest.raises(UserError, match=r"a\.json\[1\]: .*lone surrogate"):
        read("ms_swift", write(tmp_path / "a.json", rows))


def test_a_link_below_the_root_is_the_owners(tmp_path: Path) -> None:
    """Nobody can make a link by writing an annotation: what it points to may be anywhere."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "clips").symlink_to(tmp_path / "disk")
    path, root = tmp_path / "a.jsonl", str(tmp_path / "root")
    write(path, [swift(videos=["clips/1.mp4"], audios=["1.wav"])])
    (example,) = AnnotationReader("ms_swift", str(path), root, None, 0).read()
    assert example.video == tmp_path / "root" / "clips" / "1.mp4"
    write(path, [swift(videos=[f"{tmp_path}/disk/1.mp4"], audios=["1.wav"])])
    with pytest.raises(UserError, match=r"a\.jsonl:1: video .* is outside the data folder"):
        AnnotationReader("ms_swift", str(path), root, None, 0).read()


# ---- tables


def test_a_table_is_a_sequence(tmp_path: Path) -> None:
    rows = [swift(f"{i}?", TAGGED.format(i % 3), videos=[f"{i}.mp4"]) for i in range(10)]
    table = read("ms_swift", write(tmp_path / "a.json", rows))
    whole = [table[i] for i in range(10)]
    assert list(table) == whole
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
    assert table.columns["cues"].null_count == 10  # as check_gold_labels asks
    assert distinct(table, ("answer", "cues"))[0].id == "0.mp4"
    assert list(suspects(table, ["7?", "frowns. 2", "<|x|>"])) == [2, 5, 7, 8]
    assert list(suspects(table, ["(", "?0"])) == []
    assert list(suspects(whole, ["a"])) == list(range(10))


def test_checks_of_texts_look_for_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million questions to a network disk take minutes, on each of many ranks."""
    rows = [swift(f"{i}?", answer="sad" if i else "joy", videos=[f"{i}.mp4"]) for i in range(5)]
    table = read("ms_swift", write(tmp_path / "a.json", rows))
    wanted = [(e.id, e.question, e.answer, e.target) for e in table]

    def ask(path: Path) -> Path:
        raise AssertionError(f"{path} is looked for")

    monkeypatch.setattr(example_table, "located", ask)
    assert list(texts(table)) == wanted
    assert [(e.id, e.video) for e in distinct(table, ("answer",))] == [
        ("0.mp4", Path("/data/0.mp4")), ("1.mp4", Path("/data/1.mp4")),
    ]  # fmt: skip
    assert [e.question for e in distinct(table)[1:]] == ["1?"]
    with pytest.raises(AssertionError, match=r"0\.mp4 is looked for"):
        table[0]


def test_a_table_of_many_batches_is_searched_as_one(tmp_path: Path) -> None:
    """Rows come in batches of 2,000; each has words of its own, and some of others."""
    rows = [swift(f"{i % 3}?", TAGGED.format(i // 2), videos=[f"{i}.mp4"]) for i in range(5_000)]
    table = read("ms_swift", write(tmp_path / "a.jsonl", rows))
    assert table.columns["target"].num_chunks == 3
    assert [e.id for e in distinct(table)] == [f"{i}.mp4" for i in range(0, 5_000, 2)]
    assert list(suspects(table, ["frowns. 2100<", "frowns. 7<"])) == [14, 15, 4_200, 4_201]
    assert len(suspects(table, ["2?"])) == 1_666


# ---- turns of the system and of tools


@every_case("form", ["ms_swift", "messages"])
@every_case("before", [["system"], ["system", "system"], ["developer"]])
def test_system_turns_before_the_question_are_dropped(tmp_path: Path, form, before) -> None:
    plain = items(VIDEO, TEXT) if form == "messages" else swift()
    said = [{"role": role, "content": "Be brief."} for role in before]
    rows = [plain, plain | {"messages": said + plain["messages"]}]
    first, second = read(form, write(tmp_path / "a.jsonl", rows))
    assert (first.question, first.target) == (second.question, second.target) == ("What?", "sad")


@every_case("form", ["ms_swift", "messages"])
@every_case(
    ("roles", "words"),
    [
        (["system"], "the roles are system; a row must have one user turn"),
        (["user", "tool", "assistant"], "'tool' is a tool turn"),
        (["user", "system", "assistant"], "a turn of 'system' may only come before the question"),
        (["user", "bot"], "unknown role 'bot'"),
    ],
)
def test_turns_that_cannot_be_learnt_from_are_named(tmp_path: Path, form, roles, words) -> None:
    rows = [{"messages": [{"role": r, "content": "x"} for r in roles], "videos": ["1.mp4"]}]
    with pytest.raises(UserError) as caught:
        read(form, write(tmp_path / "a.jsonl", rows))
    assert words in str(caught.value)

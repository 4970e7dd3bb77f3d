"""Rows of every form in every layout of a file, what is refused, and the memory that it takes."""

from __future__ import annotations

import copy
import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case

from omni_rlvr.data.annotations.formats import FORMS
from omni_rlvr.data.annotations.read import Record
from omni_rlvr.data.annotations.rows import Row, iterate
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.types import Example, UserError

TAGGED = "<think>He frowns. {}</think>\n<answer>sad</answer>"
SYSTEM = {"role": "system", "content": "Be brief."}


def every_row(path: Path) -> list[Row]:
    return list(iterate(path))


def read(form: str, path: Path) -> list[Example]:
    return list(AnnotationReader(form, str(path), "/data", ["Sad", "Happy"], 0).read())


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


@every_case("form", FORMS)
@every_case("seed", range(3))
def test_how_a_file_is_laid_out_changes_no_example(tmp_path: Path, form: str, seed: int) -> None:
    rng = random.Random(seed)
    rows = [ROWS[form](rng, number) for number in range(60)]
    (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = read(form, tmp_path / "plain.jsonl")
    assert len(plain) == 60
    assert len({example.answer for example in plain}) == 2

    ends = [rng.choice(["\n", "\r\n", "\n \n\n", "\r"]) for _ in rows]
    lines = [json.dumps(row) + end for row, end in zip(rows, ends, strict=True)]
    (tmp_path / "ends.jsonl").write_text("".join(lines), "utf-8", newline="")
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=seed or None), "utf-8-sig")
    marked = json.dumps(rows, ensure_ascii=False)
    (tmp_path / "wide.json").write_text(marked, "utf-16")
    backwards = [dict(reversed(row.items())) for row in rows]
    (tmp_path / "backwards.json").write_text(json.dumps(rows[:1] + backwards[1:]))
    for name in ("ends.jsonl", "list.json", "wide.json", "backwards.json"):
        found = read(form, tmp_path / name)
        assert [replace(e, source="") for e in found] == [replace(e, source="") for e in plain]
        places = [f"[{i}]" for i in range(60)] if name.endswith("json") else []
        assert [e.source.removeprefix(f"{tmp_path / name}") for e in found][: len(places)] == places


@every_case(
    "text",
    [
        '{"id": true}',
        '{"id": 1.0}',
        '{"id": 1, "id": 2}',
        '{"id": 1000000000000000000000000000001}',
        '{"id": "\\ud800"}',
        '{"id": "\\ud83d\\ude00"}',
        '{"id": [NaN, -Infinity, 1e999]}',
        '{"": {"\u2028": "\x7f"}}',
    ],
)
def test_rows_are_what_pythons_json_reads(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{{}}\n{text}", "utf-8")
    (tmp_path / "a.json").write_text(f"[{{}}, {text}, {{}}]", "utf-8")
    row = repr(json.loads(text))
    assert [repr(row.value) for row in every_row(tmp_path / "a.jsonl")] == ["{}", row]
    found = every_row(tmp_path / "a.json")
    assert [(repr(r.value), r.number) for r in found] == [("{}", 0), (row, 1), ("{}", 2)]


@every_case(
    ("text", "wrong"),
    [
        ('{"video": "a"}{"video": "b"}', "a.jsonl:2: not valid JSON: Extra data at column 15"),
        ('{"video":\n"a"}', "a.jsonl:2: not valid JSON: Expecting value at column 10"),
        ('{"video": "\x01"}', "a.jsonl:2: not valid JSON: Invalid control character at"),
        ('{"x": ' + "[" * 100_000, "a.jsonl:2: not valid JSON: maximum recursion depth"),
        ("1" * 10_000, "a.jsonl:2: not valid JSON: Exceeds the limit"),
        ("[]", "a.jsonl:2: an annotation is a JSON object, this is a list"),
        ("null", "a.jsonl:2: an annotation is a JSON object, this is null"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n" + text)
    with pytest.raises(UserError) as caught:
        every_row(tmp_path / "a.jsonl")
    assert str(caught.value).startswith(f"{tmp_path}/{wrong}")


@every_case(
    ("text", "wrong"),
    [
        ("[{}]}, {{}]", "a.json:1: not valid JSON: Extra data at column 5"),
        ("[{}], [{}]", "a.json:1: not valid JSON: Extra data at column 5"),
        ("[{}, null]", "a.json[1]: an annotation is a JSON object, this is null"),
        ("[{},\n]", "a.json:"),
        ("[,{}]", "a.json:1: not valid JSON: Expecting value at column 2"),
        ("[{},, {}]", "a.json:1: not valid JSON: Expecting value at column 5"),
        ("[{}", "a.json:1: not valid JSON: Expecting ',' delimiter at column 4"),
        ('[{}, {"a":\n"\x01"}]', "a.json:2: not valid JSON: Invalid control character"),
        ("{}", "a.json: a JSON annotation file is a list of objects, this is an object"),
    ],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, text: str, wrong: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as caught:
        every_row(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path}/{wrong}")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_wrong_encoding_behind_good_rows_is_named(tmp_path: Path, name: str) -> None:
    text = '{"a": 1}\n{"a": "f\u00e2ch\u00e9"}'
    text = f"[{text.replace(chr(10), ',' + chr(10))}]" if name == "a.json" else text
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name}:2: is not UTF-8 .*WINDOWS-1252"):
        every_row(tmp_path / name)


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(UserError, match="form='alpaca' is out of range: one of r1_omni, ms_swift"):
        AnnotationReader("alpaca", "a.json", "/", None, 0)


ODD = (
    *(None, True, 0, 1.0, -3, 10**30, "", " ", "a.mp4", "sad", "happy, sad", "user", "system", []),
    *(
        [" "],
        ["a", "b"],
        [None],
        {},
        {"x": 1},
        [{"type": "text", "text": "a"}],
        "<answer></answer>",
    ),
)


def spoilt(value: Any, rng: random.Random) -> Any:
    """A copy with one value somewhere replaced or left out, or one more."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(ODD)
    keys = list(range(len(value)) if isinstance(value, list) else value)
    key, changed = rng.choice(keys), copy.copy(value)
    how = rng.random()
    if how < 0.1:
        del changed[key]
    elif how < 0.2 and isinstance(value, list):
        changed.insert(key, copy.deepcopy(rng.choice(value)))
    else:
        changed[key] = spoilt(value[key], rng)
    return changed


@pytest.mark.parametrize("form", FORMS)
def test_a_spoilt_row_is_a_record_or_is_named(form: str) -> None:
    rng, num_read, unnamed = random.Random(0), 0, []
    for number in range(3_000):
        row = ROWS[form](rng, number)
        row = spoilt(row, rng) if number % 3 else row
        if not isinstance(row, dict):
            continue  # ``iterate`` refuses it
        try:
            num_read += isinstance(FORMS[form](Row(row, Path("a.jsonl"), number)), Record)
        except UserError as error:
            unnamed += [] if str(error).startswith(f"a.jsonl:{number}: ") else [(row, error)]
    assert not unnamed
    assert num_read > 1_500


@pytest.mark.parametrize("form", FORMS)
def test_an_encoding_is_checked_in_keys_that_are_not_read(tmp_path: Path, form: str) -> None:
    text = json.dumps(ROWS[form](random.Random(1), 1) | {"note": "NOTE"})
    (tmp_path / "a.jsonl").write_bytes(text.replace("NOTE", "f\u00e2ch\u00e9").encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.jsonl:1: is not UTF-8 .*WINDOWS-1252"):
        read(form, tmp_path / "a.jsonl")


@pytest.mark.slow
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
    # The file itself, and 150 bytes a row; a parsed row takes 2,000.
    assert peak < path.stat().st_size + 3_000_000

"""Annotation files and mixtures as rows, and every wrong file with the place it must name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case

from omni_rlvr.data.annotations.rows import Row, iterate
from omni_rlvr.data.annotations.sources import sources
from omni_rlvr.types import UserError


def write(path: Path, rows: Sequence[Any]) -> Path:
    lines = [json.dumps(value) for value in rows]
    path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(rows))
    return path


def every_row(path: Path) -> list[Row]:
    return list(iterate(path))


def read_rows(path: Path, *, seed: int) -> list[Row]:
    read = [(part, every_row(part.path)) for part in sources(path, seed=seed)]
    return [rows[index] for part, rows in read for index in part.pick(len(rows))]


def numbers(path: Path, seed: int = 0) -> list[Any]:
    return [row.value["n"] for row in read_rows(path, seed=seed)]


# ---- formats


def test_json_is_a_list(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [{"n": 0}, {"n": 1}])
    assert read_rows(path, seed=0) == [Row({"n": 0}, path, 0), Row({"n": 1}, path, 1)]


def test_jsonl_with_blank_lines_and_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"n": "\u2028"}\r\n \n{"n": "é"}\n', encoding="utf-8-sig")
    assert read_rows(path, seed=0) == [
        Row({"n": "\u2028"}, path, 2),
        Row({"n": "é"}, path, 4),
    ]


# ---- mixtures


def write_mixture(tmp_path: Path, *entries: Any) -> Path:
    (tmp_path / "sub").mkdir(exist_ok=True)
    write(tmp_path / "sub" / "ten.json", [{"n": i} for i in range(10)])
    write(tmp_path / "three.jsonl", [{"n": 100 + i} for i in range(3)])
    path = tmp_path / "mix.yaml"
    path.write_text(json.dumps({"datasets": list(entries)}))  # JSON is YAML
    return path


def ten(strategy: Any) -> dict[str, Any]:
    return {"json_path": "sub/ten.json", "sampling_strategy": strategy}


def test_mixture_as_people_write_it(tmp_path: Path) -> None:
    path = write_mixture(tmp_path)
    path = path.rename(path.with_suffix(".yml"))
    path.write_text(
        "datasets:\n"
        "  - json_path: sub/ten.json\n"
        "    sampling_strategy: first:2\n"
        f"  - json_path: {tmp_path}/three.jsonl\n"
    )
    assert numbers(path) == [0, 1, 100, 101, 102]
    sources = [row.source for row in read_rows(path, seed=0)]
    assert sources[1] == f"{tmp_path}/sub/ten.json[1]"
    assert sources[4] == f"{tmp_path}/three.jsonl:3"


@every_case(
    ("strategy", "kept"),
    [
        ("all", range(10)),
        ("first:3", range(3)),
        ("end:3", range(7, 10)),
        ("first:10", range(10)),
        ("first:20%", range(2)),
        ("first:21%", range(3)),  # rounded up
        ("end:1%", [9]),
        ("end:100%", range(10)),
    ],
)
def test_sampling(tmp_path: Path, strategy: str, kept: Sequence[int]) -> None:
    assert numbers(write_mixture(tmp_path, ten(strategy))) == list(kept)


@pytest.mark.parametrize("strategy", ["random:4", "random:40%", "random:31%"])
def test_random_sampling_is_seeded(tmp_path: Path, strategy: str) -> None:
    path = write_mixture(tmp_path, ten(strategy))
    draws = [numbers(path, seed=seed) for seed in range(5)]
    assert draws == [numbers(path, seed=seed) for seed in range(5)]
    assert len({tuple(draw) for draw in draws}) > 1
    for draw in draws:
        assert len(set(draw)) == 4
        assert draw == sorted(draw)


def test_entries_of_a_mixture_draw_apart(tmp_path: Path) -> None:
    path = write_mixture(tmp_path, ten("random:5"), ten("random:5"))
    drawn = numbers(path)
    assert drawn[:5] != drawn[5:]


@every_case(
    "strategy",
    [
        *("half", "", "first", "first:", "first:-1", "first:1.5", "first:x", "first: 3", "First:3"),
        *("random:5:3", "last:3", "first:%", "first:\u0663", None, 5, ["all"]),
    ],
)
def test_unknown_strategy(tmp_path: Path, strategy: Any) -> None:
    with pytest.raises(UserError, match=r"mix\.yaml: datasets\[1\]: unknown sampling_strategy"):
        read_rows(write_mixture(tmp_path, ten("all"), ten(strategy)), seed=0)


@every_case(
    ("strategy", "count"), [("first:11", 11), ("random:110%", 11), ("end:0", 0), ("first:0%", 0)]
)
def test_more_or_less_than_there_is(tmp_path: Path, strategy: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"datasets\[0\]: .*asks for {count} of 10 rows"):
        read_rows(write_mixture(tmp_path, ten(strategy)), seed=0)


@every_case(
    ("entry", "words"),
    [
        ("sub/ten.json", "has no json_path"),
        ({"sampling_strategy": "all"}, "has no json_path"),
        ({"json_path": 5}, "json_path is 5, not a string"),
        ({"json_path": "mix.yaml"}, "must end in .json or .jsonl"),
        ({"json_path": "sub/ten.json", "sampling_stategy": "all"}, "'sampling_stategy'"),
    ],
)
def test_wrong_entry(tmp_path: Path, entry: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(write_mixture(tmp_path, entry), seed=0)
    assert "mix.yaml: datasets[0]" in str(caught.value)
    assert words in str(caught.value)


def test_missing_file_of_a_mixture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json: no such annotation file"):
        read_rows(write_mixture(tmp_path, {"json_path": "none.json"}), seed=0)


@every_case(
    ("text", "words"),
    [
        ("datasets: [", "not valid YAML"),
        ("datasets: []", "at least one entry"),
        ("datasets: {}", "at least one entry"),
        ("datasets:", "at least one entry"),
        ("- json_path: a.json", "one key, datasets"),
        ("data: []", "one key, datasets"),
        ("datasets: []\nseed: 1", "one key, datasets"),
        ("just text", "one key, datasets"),
    ],
)
def test_wrong_mixture(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_rows(path, seed=0)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


# ---- files that are wrong


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.yaml"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(tmp_path / name, seed=0)
    assert str(caught.value).startswith(f"{tmp_path / name}: no such annotation file")
    assert str(tmp_path) in str(caught.value)


@every_case("name", ["a.json", "a.jsonl", "a.yaml"])
@every_case("text", ["", " \n\n"])
def test_empty_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: the annotation file is empty"):
        read_rows(tmp_path / name, seed=0)


def test_empty_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json: the list is empty"):
        read_rows(write(tmp_path / "a.json", []), seed=0)


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json: cannot be read"):
        read_rows(tmp_path / "a.json", seed=0)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        UserError, match=r"a\.json:1: the file has the byte order mark of UTF-16-LE"
    ):
        read_rows(tmp_path / "a.json", seed=0)


@pytest.mark.parametrize("name", ["a.csv", "a", "a.json.gz"])
def test_unknown_kind_of_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"unknown kind of annotation file .*\.jsonl"):
        read_rows(tmp_path / name, seed=0)


def test_a_line_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{json.dumps({"n": 1})}\n{{"video": 1.mp4}}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: not valid JSON: Expecting .* column 12$"):
        read_rows(path, seed=0)


def test_a_file_that_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[\n  {},\n  oops\n]")
    with pytest.raises(UserError, match=r"a\.json:3: not valid JSON: Expecting value at column 3"):
        read_rows(path, seed=0)


def test_json_lines_named_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"{json.dumps({'n': 1})}\n{json.dumps({'n': 1})}\n")
    with pytest.raises(UserError, match=r"a\.json:2: .* name it \.jsonl"):
        read_rows(path, seed=0)


@pytest.mark.parametrize("text", ["[" * 200_000, "1" * 10_000])
def test_json_that_no_parser_takes(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json:1: not valid JSON"):
        read_rows(tmp_path / "a.json", seed=0)


@pytest.mark.parametrize(
    ("text", "kind"), [("{}", "an object"), ("3", "a number"), ('"a"', "a string")]
)
def test_json_that_is_not_a_list(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=f"a.json: .* list of objects, this is {kind}"):
        read_rows(tmp_path / "a.json", seed=0)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_lines_end_as_any_system_ends_them(tmp_path: Path, end: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.join(['{"a": 1}', "", '{"a": 2}', ""]).encode())
    assert [(row.value["a"], row.number) for row in every_row(path)] == [(1, 1), (2, 3)]


def test_a_list_named_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('[{"a": 1}]')
    with pytest.raises(UserError, match=r"rows.jsonl:1: .* this is a list; name a file .* \.json$"):
        every_row(path)

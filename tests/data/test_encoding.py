"""Lists as spreadsheets and editors save them: read where a mark says how, else refused by name."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from every_case import every_case
from official_trees import lines, read, write

from omni_rlvr.data.annotations.encoding import decode
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.types import UserError

MARKED = ("utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be")
SET_1 = "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
LABEL = "glücklich"
ROW = {
    "video": "é/1.mp4",
    "conversations": [{"from": "human", "value": "Quoi?"}, {"from": "gpt", "value": LABEL}],
}


def saved(text: str, codec: str) -> bytes:
    """With a byte order mark, which Python writes for three of them only."""
    mark = "\ufeff" if codec.endswith("-be") else ""
    return (mark + text).encode(codec)


@every_case("codec", MARKED)
@every_case("rows", [("video_name,label", "1,happy"), ("1\thappy",), ("1 9 happy",)])
def test_lists_of_names_with_a_byte_order_mark(tmp_path: Path, codec: str, rows) -> None:
    root = write(tmp_path, {SET_1: saved(lines(*rows), codec)})
    (example,) = read("dfew", root, "train")
    assert (example.answer, example.video.name) == ("happy", "00001.mp4")
    assert example.source == f"{root / SET_1}:{len(rows)}"


@every_case("codec", MARKED)
def test_quoted_lists_with_a_byte_order_mark(tmp_path: Path, codec: str) -> None:
    rows = lines("Utterance,Emotion,Dialogue_ID,Utterance_ID", '"É, so",joy,0,1')
    root = write(tmp_path, {"train_sent_emo.csv": saved(rows, codec)})
    (example,) = read("meld", root, "train", "dataset.question='{utterance}?'")
    assert (example.question, example.answer) == ("É, so?", "happy")


@every_case("codec", MARKED)
@every_case("name", ["a.json", "a.jsonl", "a.yaml"])
def test_annotations_with_a_byte_order_mark(tmp_path: Path, codec: str, name: str) -> None:
    row = json.dumps(ROW, ensure_ascii=False)
    text = {"a.json": f"[{row}]", "a.jsonl": f"{row}\r\n"}.get(
        name, "datasets: [{json_path: b.json}]"
    )
    write(tmp_path, {name: saved(text, codec), "b.json": saved(f"[{row}]", codec)})
    reader = AnnotationReader("r1_omni", str(tmp_path / name), "/data", [LABEL], 0)
    (example,) = reader.read()
    assert (example.answer, example.question) == (LABEL, "Quoi?")
    assert example.video == Path("/data/é/1.mp4")


@every_case(
    ("codec", "text", "looks"),
    [
        ("latin-1", "Le garçon est fâché, la fille est gênée.", "WINDOWS-1252"),
        ("cp1252", "She\u2019s happy \u2013 \u201cvery\u201d.", "WINDOWS-1252"),
        ("gbk", "这个人非常高兴，声音很大。", "GBK"),
        ("gb18030", "這個人非常高興，聲音很大。", "GB18030"),
        ("big5", "這個人非常高興，聲音很大。", "BIG5"),
        ("shift_jis", "この人はとても嬉しいです。", "SHIFT_JIS"),
        ("euc_jp", "この人はとても嬉しいです。", "EUC-JP"),
        ("euc_kr", "이 사람은 매우 행복합니다.", "EUC-KR"),
        ("utf-16-le", "happy, sad", "UTF-16LE"),
        ("utf-16-be", "happy, sad", "UTF-16BE"),
        ("utf-32-le", "happy, sad", "UTF-32LE"),
        ("utf-32-be", "happy, sad", "UTF-32BE"),
    ],
)
def test_another_encoding_is_named_with_its_line(codec: str, text: str, looks: str) -> None:
    with pytest.raises(UserError) as caught:
        decode(f"name,label\n1,happy\n{text}\n".encode(codec), Path("/x/my list.csv"))
    line = 1 if "utf" in codec else 3
    assert str(caught.value).startswith(f"/x/my list.csv:{line}: is not UTF-8 (byte 0x")
    assert f"it looks like {looks}; save it as UTF-8: iconv -f {looks} " in str(caught.value)


def test_the_advice_works_when_typed(tmp_path: Path) -> None:
    path = write(tmp_path, {"my list.csv": "1,fâché\n".encode("latin-1")}) / "my list.csv"
    with pytest.raises(UserError) as caught:
        decode(path.read_bytes(), path)
    advice = str(caught.value).partition("save it as UTF-8: ")[2]
    assert shlex.split(advice)[-1] == str(tmp_path / "my list.utf8.csv")
    subprocess.run(["sh", "-c", advice], check=True)
    assert (tmp_path / "my list.utf8.csv").read_text("utf-8") == "1,fâché\n"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.yaml"])
def test_annotations_in_another_encoding_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, {name: json.dumps([ROW], ensure_ascii=False, indent=1).encode("latin-1")})
    with pytest.raises(UserError, match=rf"{name}:3: is not UTF-8 .*0xE9.*WINDOWS-1252"):
        AnnotationReader("r1_omni", str(tmp_path / name), "/data", None, 0).read()


def test_lists_in_another_encoding_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, {SET_1: "video_name,label\n1,高兴\n2,悲伤\n".encode("gbk")})
    with pytest.raises(UserError, match=r"set_1\.csv:2: is not UTF-8 .* looks like GBK"):
        read("dfew", root, "train")


def test_the_western_encoding_of_a_release_is_read_and_no_other(tmp_path: Path) -> None:
    rows = lines("Utterance,Emotion,Dialogue_ID,Utterance_ID", "{},joy,0,1")
    question = "dataset.question='{utterance}?'"
    write(tmp_path, {"train_sent_emo.csv": rows.format("That\u2019s it\u2026").encode("cp1252")})
    (example,) = read("meld", tmp_path, "train", question)
    assert example.question == "That\u2019s it\u2026?"
    write(tmp_path, {"train_sent_emo.csv": rows.format("这个人非常高兴").encode("gbk")})
    with pytest.raises(UserError, match=r"train_sent_emo\.csv:2: .* looks like GBK"):
        read("meld", tmp_path, "train", question)


def test_a_mark_that_lies_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^a\.csv:2: the file has the byte order mark of UTF-8, but this line"
    ):
        decode(b"\xef\xbb\xbf1,2\n\xff", Path("a.csv"))
    with pytest.raises(
        UserError, match="the file has the byte order mark of UTF-16-LE, but this line"
    ):
        decode("1,2".encode("utf-16")[:-1], Path("a.csv"))


@pytest.mark.parametrize("data", [b'[{"a": 1}]\n\0\0', b"a,b\n1,2\n" + bytes(10) + b"3,4\n" * 99])
def test_zero_bytes_are_no_encoding(data: bytes) -> None:
    with pytest.raises(
        UserError, match=r"list\.csv:[23]: the line holds zero bytes, .* copy the file again"
    ):
        decode(data, Path("list.csv"))

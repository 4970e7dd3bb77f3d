"""Measure how long a million annotations take to open, and how much memory at most.

Each kind of file is written once and opened in a separate process, which reports wall time, CPU
time and its peak resident memory, all without imports.

    python experiments/opening/measure.py [FOLDER]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NUM_ROWS = 1_000_000
WORDS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
    "characters is the most obvious to you?"
)
THOUGHT = (
    "<think>In clip {i} a person looks down and speaks slowly, with a low voice.</think>\n"
    "<answer>{word}</answer>"
)
FORMS = {
    "labels": "r1_omni",
    "thoughts": "r1_omni",
    "cues": "r1_omni",
    "swift": "ms_swift",
    "items": "messages",
}
KINDS = (
    *("labels.json", "labels.jsonl", "thoughts.json", "thoughts.jsonl"),
    *("cues.json", "swift.jsonl", "items.json", "dfew.csv"),
)


def row(kind: str, i: int) -> dict:
    """One annotation. All but ``labels`` reason; ``cues`` and the chat forms have number ids."""
    word = WORDS[i % 7]
    target = word if kind == "labels" else THOUGHT.format(i=i, word=word)
    clip = f"DFEW/videos/{i}.mp4"
    if kind in ("labels", "thoughts", "cues"):
        asked = {"from": "human", "value": f"<video>\n<audio>\n{QUESTION}"}
        plain = {"video": clip, "conversations": [asked, {"from": "gpt", "value": target}]}
        own = {"id": i, "cues": {"brows": "raised", "pace": "slow"}} if kind == "cues" else {}
        return plain | own
    content: object = f"<video><audio>{QUESTION}"
    if kind == "items":
        content = [{"type": "video", "video": clip}, {"type": "text", "text": QUESTION}]
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": target},
    ]
    media = {} if kind == "items" else {"videos": [clip], "audios": [f"{clip[:-4]}.wav"]}
    return {"id": i, "messages": said, "solution": word, **media}


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:  # row by row: a child starts with the parent's peak memory
        file.write({".csv": "video_name,label\n", ".json": "[", ".jsonl": ""}[path.suffix])
        for i in range(NUM_ROWS):
            if path.suffix == ".csv":
                file.write(f"{i},{1 + i % 7}\n")
            else:
                between = (", " if path.suffix == ".json" else "\n") if i else ""
                file.write(between + json.dumps(row(path.stem, i)))
        file.write("]" if path.suffix == ".json" else "")


def place(folder: Path, kind: str) -> Path:
    if kind == "dfew.csv":
        return folder / "DFEW" / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv"
    return folder / kind


def reader(path: Path, folder: Path):
    if path.suffix != ".csv":
        from omni_rlvr.data.readers.annotated import AnnotationReader

        return AnnotationReader(FORMS[path.stem], str(path), str(folder), list(WORDS), 0)
    from omni_rlvr.data.annotations.labels import LabelMap
    from omni_rlvr.data.readers.listed import ListedReader

    return ListedReader(
        split="train",
        root=str(folder / "DFEW"),
        fold=1,
        lists=["EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv"],
        clips=["Clip/original"],
        num_digits=5,
        labels=LabelMap({word: word for word in WORDS}, base=None),
        question=QUESTION,
    )


def measure(kind: str, folder: Path) -> None:
    """Open one file and print what it took."""
    path = place(folder, kind)
    made = reader(path, folder)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    examples = made.read()
    wall_s = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert len(examples) == NUM_ROWS
    assert examples[-1].answer == WORDS[(NUM_ROWS - 1) % 7]
    size_mb = path.stat().st_size / 1e6
    peak_gb = after.ru_maxrss * 1024 / 1e9
    start_gb = before.ru_maxrss * 1024 / 1e9
    print(
        f"{kind:15} {size_mb:5.0f} MB  wall {wall_s:5.2f} s  CPU {cpu_s:5.2f} s  "
        f"peak {peak_gb:.2f} GB (before reading {start_gb:.2f})",
        flush=True,
    )


def main(folder: Path) -> None:
    for kind in KINDS:
        path = place(folder, kind)
        if not path.exists():
            write(path)
        subprocess.run([sys.executable, __file__, str(folder), kind], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[2], Path(sys.argv[1]))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made_folder:
            main(Path(made_folder))

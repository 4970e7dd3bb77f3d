"""What comes in through the page: kept out, read, deleted."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from case_sound import clip, tone

from omni_rlvr.models.families import family_of
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.tasks.serve.uploads import Upload, Uploads
from omni_rlvr.types import UserError

SERVE = ("task=serve", "task.num_examples=0")


@pytest.fixture
def make(runner, tmp_path: Path) -> Iterator[Callable[..., Uploads]]:
    """Makes the folder of a page."""
    made: list[Uploads] = []

    def build(*overrides: str) -> Uploads:
        parts, _ = runner.build(*SERVE, *overrides)
        assert isinstance(parts, ServeInputs)
        folder = tmp_path / "uploads"
        folder.mkdir()
        made.append(Uploads(parts, folder, torch.device("cpu")))
        return made[-1]

    yield build
    for uploads in made:
        uploads.close()
        assert not uploads.folder.exists()


def put(uploads: Uploads, source: Path, name: str | None = None) -> Path:
    """Puts a file where Gradio would."""
    folder = uploads.folder / "digest"
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(source, folder / (name or source.name)))


def there(upload: Upload) -> tuple[bool, bool]:
    return upload.has_video, upload.has_audio


def webm(path: Path, codecs: tuple[str | None, str | None] = ("libvpx", "libopus")) -> Path:
    """One second as a browser records it: VP8 and Opus."""
    picture, sound = codecs
    with av.open(str(path), "w", format="webm") as container:
        if picture is not None:
            video = container.add_stream(picture, rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        if sound is not None:
            audio = container.add_stream(sound, rate=48_000, layout="mono")
        if picture is not None:
            for level in range(0, 200, 20):
                image = np.full((48, 64, 3), level, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode(None))
        if sound is not None:
            wave = np.sin(np.arange(48_000, dtype=np.float32) / 20)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 48_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def test_what_a_file_has_is_found_and_encoded_for_each_model(
    make, clips: Path, checkpoint: Path, tmp_path: Path
) -> None:
    uploads = make(f"task.compare={checkpoint}")
    whole = uploads.take(put(uploads, clips / "clips/000000.mp4"), as_sound=False)
    assert there(whole) == (True, True)
    assert whole.duration_s == pytest.approx(2.0, abs=0.15)
    assert len(whole.features) == 2
    assert there(uploads.take(put(uploads, clips / "silent.mp4"), as_sound=False)) == (True, False)
    sound = uploads.take(put(uploads, clips / "clips/000000.mp4"), as_sound=True)
    assert there(sound) == (False, True)
    assert torch.equal(sound.features[0].audio, whole.features[0].audio)
    recorded = webm(tmp_path / "recorded.webm")
    assert there(uploads.take(put(uploads, recorded), as_sound=False)) == (True, True)
    voice = webm(tmp_path / "voice.webm", (None, "libopus"))
    for as_sound in (False, True):
        assert there(uploads.take(put(uploads, voice), as_sound=as_sound)) == (False, True)


def test_a_model_that_does_not_see_is_given_the_sound_alone(make, clips: Path, tmp_path: Path):
    family_of("qwen2_audio").tiny(0, "qwen2_audio").save(tmp_path / "hears")
    model = ("model=qwen2_audio_7b", f"model.path={tmp_path}/hears", "model.dtype=float32")
    with pytest.raises(UserError, match=r"modality=video_audio: .*; set modality=audio"):
        make(*model)
    uploads = make(*model, "modality=audio")
    whole = uploads.take(put(uploads, clips / "clips/000000.mp4"), as_sound=False)
    assert there(whole) == (False, True)
    silent = put(uploads, clips / "silent.mp4")
    with pytest.raises(UserError, match=r"silent\.mp4 has nothing that the model takes"):
        uploads.take(silent, as_sound=False)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("task.max_upload_mb=0.001", "MB; this page takes files of up to 0.001 MB."),
        ("task.max_clip_s=1.5", "2 s long; this page takes clips of up to 1.5 s."),
    ],
)
def test_what_is_too_much_is_refused_before_it_is_decoded(
    make, clips: Path, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = make(limit)
    monkeypatch.setattr(uploads.reader, "read", lambda *_, **__: pytest.fail("decoded"))
    path = put(uploads, clips / "clips/000000.mp4", "<b>a.mp4")
    with pytest.raises(UserError) as error:
        uploads.take(path, as_sound=False)
    assert str(error.value).startswith("<b>a.mp4 ")
    assert str(error.value).endswith(words)


@pytest.mark.parametrize("data", [b"", b"no clip", b"\0\0\0\x18ftypmp42" + bytes(99)])
@pytest.mark.parametrize("as_sound", [False, True])
def test_a_broken_file_is_one_sentence_without_its_folder(make, data, as_sound) -> None:
    uploads = make()
    (uploads.folder / "a.mp4").write_bytes(data)
    with pytest.raises(UserError) as error:
        uploads.take(uploads.folder / "a.mp4", as_sound=as_sound)
    assert str(error.value).startswith("a.mp4: is ")
    assert str(uploads.folder) not in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_only_files_of_the_folder_are_deleted(make, clips: Path, tmp_path: Path) -> None:
    uploads = make()
    path = put(uploads, clips / "silent.mp4")
    outside = Path(shutil.copy(path, tmp_path / "mine.mp4"))
    for strange in (outside, uploads.folder / "digest/../../mine.mp4"):
        uploads.delete(strange)
        assert outside.exists()
    uploads.delete(path)
    uploads.delete(path)  # twice is no fault
    assert not path.parent.exists()


def test_what_nobody_asked_about_goes_in_time(make, clips: Path) -> None:
    uploads = make("task.keep_upload_s=100")
    path = put(uploads, clips / "silent.mp4")
    uploads.sweep()
    assert path.exists()
    now = time.time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omni_rlvr.tasks.serve.uploads.time.time", lambda: now() + 101)
        uploads.sweep()
    assert not path.exists()
    assert os.listdir(uploads.folder) == []  # noqa: PTH208


def test_what_is_not_heard_of_an_upload_is_told(make, tmp_path: Path) -> None:
    long = clip(tmp_path / "long.mov", tone(5), picture_s=5.0, codec="pcm_s16le")
    uploads = make()
    taken = uploads.take(put(uploads, long), as_sound=False)
    assert taken.notes == [
        "3.00 of the 5.00 s of its sound are not used: the model takes 2 s, cut out around the "
        "sampled frames"
    ]

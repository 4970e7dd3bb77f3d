"""A map from an index to a sample: an annotation's clip, read in a worker process.

A clip that cannot be read becomes a ``SkippedClip`` that says why; another clip is never put in its
place. ``loader.refuse_bad_media`` decides whether a skipped clip ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import READ, ClipReader
from omni_rlvr.types import Example, MediaError, Sample, SkippedClip


def clip_reader(dataset: DatasetConfig, function: str = READ) -> ClipReader:
    """Make a reader of a data set's clips, with the limits that its config sets.

    Args:
        dataset: The config.
        function: What the reader's child process calls, ``package.module:name``.
    """
    return ClipReader(
        dataset.decode_timeout_s, dataset.max_clips_per_process, function, dataset.limits
    )


@dataclass(eq=False)
class ClipDataset(Dataset):
    """Examples with their clips; nothing is read before an item is asked for."""

    examples: Sequence[Example]
    reader: ClipReader
    """Reads clips in a child process, with a time limit."""
    request: ClipRequest
    """What to read of a clip."""
    cache: FeatureCache | None
    """Features of clips; a clip that is in it is not decoded."""

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample | SkippedClip:
        """Read one clip or its cached features, or say why it cannot be read."""
        example = self.examples[index]
        features = None if self.cache is None else self.cache.get(example)
        sample = Sample(example, None, features)
        try:
            if features is None:
                clip = self.reader.read(example.video, example.audio, self.request)
                sample = Sample(example, clip)
            self._check_modality(sample)
            return sample
        except MediaError as error:
            where = example.source  # "from video=..." where the command line names the clip
            where = where if where.startswith("from ") else f"annotation {where}"
            return SkippedClip(example, f"{error} ({where})")

    def samples_of(self, examples: Sequence[Example]) -> Iterator[Sample]:
        """Read other examples with the same settings, one by one; leave out unreadable clips."""
        other = replace(self, examples=examples)
        items = (other[i] for i in range(len(examples)))
        return (item for item in items if isinstance(item, Sample))

    def _check_modality(self, sample: Sample) -> None:
        if not sample.has_video and not sample.has_audio:
            wanted = "sound" if self.request.want_audio else "picture"
            raise MediaError(
                f"{sample.example.video or sample.example.audio} has no {wanted}, "
                "the only modality in use; use modality=video_audio or leave the clip out"
            )

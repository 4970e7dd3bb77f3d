"""A map from an index to a sample: an annotation's clip, read in a worker process.

A clip that cannot be read becomes a ``SkippedClip`` that says why; another clip is never put in its
place. Whether that ends the run is decided where batches arrive (``loader.refuse_bad_media``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from torch.utils.data import Dataset

from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.types import Example, MediaError, Sample, SkippedClip


class ClipDataset(Dataset):
    """Examples with their clips."""

    def __init__(
        self,
        examples: Sequence[Example],
        reader: ClipReader,
        request: ClipRequest,
        *,
        cache: FeatureCache | None,
    ):
        """Hold examples; nothing is read yet.

        Args:
            examples: What to read.
            reader: Reads clips in a child process, with a time limit.
            request: What of a clip is read.
            cache: Where clips' features may be; such a clip is not read.
        """
        self.examples = examples
        self.reader = reader
        self.request = request
        self.cache = cache

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample | SkippedClip:
        """Read one clip or its cached features, or says why it cannot be read."""
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
        """Read other examples as these are read, one by one; leaves out what cannot be read."""
        other = copy.copy(self)
        other.examples = examples
        items = (other[i] for i in range(len(examples)))
        return (item for item in items if isinstance(item, Sample))

    def _check_modality(self, sample: Sample) -> None:
        if not sample.has_video and not sample.has_audio:
            wanted = "sound" if self.request.want_audio else "picture"
            raise MediaError(
                f"{sample.example.video or sample.example.audio} has no {wanted}, "
                "the only modality in use; use modality=video_audio or leave the clip out"
            )

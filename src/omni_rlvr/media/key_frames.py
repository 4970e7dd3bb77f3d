"""Whether decoding can begin at the key frames of a picture as it does at its first frame.

decord begins at the key frame before a wanted frame and counts on from there. Where a key frame
only begins to refresh the picture, or frames that are shown before it follow it in the file, that
gives another frame, or a broken one, without an error.
"""

from __future__ import annotations

import av

_NAL_TYPE, _IDR = 0x1F, 5  # of H.264: the frame after which none refers to one before


class KeyFrames:
    """The key frames of a stream, as packets come."""

    def __init__(self, stream: av.VideoStream | None) -> None:
        self._stream = stream
        self._key: int | None = None
        self._newest: int | None = None
        self.are_entries = True
        """Whether what follows each of them, in the file, is what is shown after it."""

    def look_at(self, packet: av.Packet) -> None:
        """Hold a packet's time against those before it."""
        stream, pts = self._stream, packet.pts
        if stream is None or packet.stream_index != stream.index or pts is None:
            return
        if packet.is_keyframe:
            if self._newest is not None and not (
                pts > self._newest and _is_whole_refresh(stream, packet)
            ):
                self.are_entries = False
            self._key = pts
        elif self._key is None or pts < self._key:
            self.are_entries = False
        self._newest = pts if self._newest is None else max(pts, self._newest)


def _is_whole_refresh(stream: av.VideoStream, packet: av.Packet) -> bool:
    """Whether a key frame needs no other: of H.264 in an mp4, look for the type of its parts."""
    codec = stream.codec_context
    if codec.name != "h264":
        return True
    data, settings = bytes(packet), bytes(codec.extradata or b"")
    if settings[:1] != b"\x01":  # no sizes before the parts, as in a transport stream
        return False
    size_bytes, at = (settings[4] & 3) + 1, 0
    while at + size_bytes < len(data):
        size = int.from_bytes(data[at : at + size_bytes], "big")
        if data[at + size_bytes] & _NAL_TYPE == _IDR:
            return True
        at += size_bytes + size
    return False

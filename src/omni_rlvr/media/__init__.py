"""Read media files into frames and a waveform. This package uses numpy and never imports torch.

``clip.read_clip`` reads one clip in this process, ``sandbox.reader.ClipReader`` in a child process
with a time limit. This file imports nothing, so that the child starts quickly.
"""

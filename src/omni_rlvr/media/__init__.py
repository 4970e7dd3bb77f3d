"""From a file on disk to frames and a waveform: numpy only, no torch anywhere below this folder.

``clip.read_clip`` reads one clip in this process, ``sandbox.reader.ClipReader`` the same in a child
with a time limit. This file imports nothing, so that the child starts quickly.
"""

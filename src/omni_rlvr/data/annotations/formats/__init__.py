"""Layouts of JSON annotations, by the name that ``form`` of a data set's reader gives them."""

from __future__ import annotations

from typing import Any

from omni_rlvr.data.annotations.formats.messages import MESSAGES
from omni_rlvr.data.annotations.formats.ms_swift import MS_SWIFT
from omni_rlvr.data.annotations.formats.r1_omni import R1_OMNI
from omni_rlvr.data.annotations.read import Form

FORMS: dict[str, Form[Any]] = {"r1_omni": R1_OMNI, "ms_swift": MS_SWIFT, "messages": MESSAGES}

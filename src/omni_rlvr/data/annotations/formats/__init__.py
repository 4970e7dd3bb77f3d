"""Layouts of JSON annotations, by the name that ``form`` of a data set's reader gives them."""

from __future__ import annotations

from omni_rlvr.data.annotations.formats.messages import record as messages
from omni_rlvr.data.annotations.formats.ms_swift import record as ms_swift
from omni_rlvr.data.annotations.formats.r1_omni import record as r1_omni
from omni_rlvr.data.annotations.read import Form

FORMS: dict[str, Form] = {"r1_omni": r1_omni, "ms_swift": ms_swift, "messages": messages}

"""Layouts of JSON annotations, by the name that ``form`` of a data set's reader gives them."""

from __future__ import annotations

from typing import Any

from omni_rlvr.data.annotations import Form
from omni_rlvr.data.forms.messages import MESSAGES
from omni_rlvr.data.forms.ms_swift import MS_SWIFT
from omni_rlvr.data.forms.r1_omni import R1_OMNI

FORMS: dict[str, Form[Any]] = {"r1_omni": R1_OMNI, "ms_swift": MS_SWIFT, "messages": MESSAGES}

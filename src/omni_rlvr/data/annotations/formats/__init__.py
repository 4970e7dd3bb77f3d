"""Layouts of JSON annotations, by the names that the option ``form`` of a reader takes."""

from __future__ import annotations

from omni_rlvr.data.annotations.formats import messages, ms_swift, r1_omni
from omni_rlvr.data.annotations.read import Form

FORMS: dict[str, Form] = {
    "r1_omni": r1_omni.record,
    "ms_swift": ms_swift.record,
    "messages": messages.record,
}

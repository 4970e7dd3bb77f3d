"""``omni_rlvr.conf`` in a checkout: the package of option files in ``conf/`` at the top.

A wheel holds that folder inside the package, and not this file.
"""

import importlib.util
import sys

from omni_rlvr.assembly.composing.help_page import conf_dir

_spec = importlib.util.spec_from_file_location(
    __name__, f"{conf_dir()}/__init__.py", submodule_search_locations=[conf_dir()]
)
assert _spec is not None
assert _spec.loader is not None
# the import that runs this file hands on what stands here at its end
sys.modules[__name__] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules[__name__])

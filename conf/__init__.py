"""The option files, as a package: ``hydra.initialize_config_module("omni_rlvr.conf")`` finds them.

Importing it makes the schemas known that the files refer to.
"""

from omni_rlvr.tasks.table import register

register()

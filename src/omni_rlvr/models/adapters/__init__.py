"""Which weights train, low-rank adapters, and checkpoints that hold adapters alone."""

from omni_rlvr.models.loading.untrusted import import_bitsandbytes

import_bitsandbytes()  # before peft does, which imports it wherever it is installed

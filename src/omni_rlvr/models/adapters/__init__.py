"""Which weights train, low-rank adapters, and checkpoints that hold only adapters."""

from omni_rlvr.models.loading.untrusted import import_bitsandbytes

import_bitsandbytes()  # before peft, which imports it if it is installed

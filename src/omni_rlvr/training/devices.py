"""Choose the devices of ``trainer.accelerator`` and ``trainer.devices``; read their memory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omni_rlvr.types import UserError, require

ALL = ("auto", "-1", -1)
CGROUP = Path("/sys/fs/cgroup/memory.max")
"""The limit of a container; "max" where there is none."""


def device_of(accelerator: str) -> torch.device:
    """Name the device of ``trainer.accelerator``, as Lightning would choose it.

    Raises:
        UserError: this machine has no such device.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    found = [name for name, is_available in available.items() if is_available]
    wanted = {"auto": [*available], "gpu": ["cuda", "mps"]}.get(accelerator, [accelerator])
    usable = [name for name in wanted if name in found]
    if not usable:
        raise UserError(
            f"trainer.accelerator={accelerator}: not on this machine, which has "
            f"{', '.join(found)}; use auto, or one of these"
        )
    return torch.device(usable[0])


def device_numbers(accelerator: str, devices: int | str | Sequence[int]) -> list[int]:
    """List the numbers of a run's devices, one process each.

    Args:
        accelerator: ``trainer.accelerator``.
        devices: ``trainer.devices``: how many, a list of GPU numbers, or "auto" for all GPUs. On a
            CPU it is the number of processes, and "auto" is one.

    Returns:
        The numbers of the devices; on a CPU 0, 1, ...

    Raises:
        UserError: this machine does not have these devices.
    """
    kind = device_of(accelerator).type
    num_devices = {"cuda": torch.cuda.device_count(), "mps": 1}
    key, wanted = "trainer.devices", "1 or more, a list of GPU numbers, or auto"
    if devices in ALL:
        return [*range(num_devices.get(kind, 1))]
    if isinstance(devices, int | str):
        require(str(devices).isdigit() and int(devices) >= 1, key, devices, wanted)
        numbers = [*range(int(devices))]
    else:
        numbers = list(devices) if isinstance(devices, Sequence) else []
        different = len({*numbers}) == len(numbers) > 0
        require(different and all(isinstance(n, int) for n in numbers), key, devices, wanted)
    if kind in num_devices and max(numbers) >= num_devices[kind]:
        count = num_devices[kind]
        raise UserError(f"{key}={devices}: this machine has {count} of accelerator={kind}")
    return numbers


def take_device(trainer: Mapping[str, Any], local_rank: int) -> torch.device:
    """Return the device of a rank and make it the current device of this process.

    Args:
        trainer: the config group ``trainer``.
        local_rank: index of this process among those on its machine.
    """
    device = device_of(trainer["accelerator"])
    if device.type != "cuda":
        return device
    number = device_numbers(trainer["accelerator"], trainer["devices"])[local_rank]
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


@dataclass(frozen=True)
class DeviceMemory:
    """A device, and its memory in bytes; None where that is not known."""

    name: str
    num_bytes: int | None


def memory_of(device: torch.device, number: int) -> DeviceMemory:
    """Read the total memory of a GPU, or of this machine for the CPU.

    Args:
        device: The device; only its type is read.
        number: Index of the GPU.
    """
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(number)
        return DeviceMemory(f"{properties.name} ({number})", properties.total_memory)
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return DeviceMemory(device.type, None)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else "max"
    return DeviceMemory("this machine", min(machine, int(limit)) if limit.isdigit() else machine)

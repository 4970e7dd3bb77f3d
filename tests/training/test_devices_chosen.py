"""``trainer.devices`` names devices that are there, or is refused by name."""

from __future__ import annotations

import pytest
import torch
from every_case import every_case

from omni_rlvr.training.devices import device_numbers, take_device
from omni_rlvr.types import UserError


@every_case(
    ("devices", "numbers"), [(1, [0]), (2, [0, 1]), ("2", [0, 1]), ("auto", [0]), (-1, [0])]
)
def test_on_a_cpu_devices_are_processes(devices, numbers) -> None:
    assert device_numbers("cpu", devices) == numbers


@every_case("devices", [0, "some", [], [0, 0], ["a"], 1.5])
def test_what_means_no_device_is_refused(devices) -> None:
    with pytest.raises(UserError, match=r"^trainer\.devices="):
        device_numbers("cpu", devices)


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert device_numbers("auto", "auto") == [0, 1, 2, 3]
    assert device_numbers("cuda", [1, 3]) == [1, 3]
    with pytest.raises(UserError, match=r"devices=8: this machine has 4 of accelerator=cuda"):
        device_numbers("cuda", 8)
    trainer = {"accelerator": "cuda", "devices": [1, 3]}
    assert take_device(trainer, 1) == torch.device("cuda", 3)
    assert taken == [3]
    assert take_device({"accelerator": "cpu", "devices": 2}, 1) == torch.device("cpu")

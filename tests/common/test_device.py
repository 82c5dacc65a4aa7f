"""Which device a name means; GPUs are PyTorch's to count, here on machines with and without."""

from __future__ import annotations

import pytest
import torch

from kdcli.common.device import pick_device
from kdcli.common.errors import ResourceError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of PyTorch about GPUs, answered as on a machine with two of them."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_always_has_its_number() -> None:
    """`torch.cuda.set_device` refuses a device without one."""
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 0)
    assert pick_device("cuda:1").index == 1
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_gpus")
def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0").index == 0
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ResourceError, match=r"Process 2 .* no GPU of its own, there are 2"):
        pick_device("auto")


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ResourceError, match="cuda:0 is asked for, but PyTorch sees 0"):
            pick_device(name)


@pytest.mark.parametrize("name", ["gpu", "mps", "", "cuda:x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ResourceError, match=r"Expected a device auto, cpu, cuda or cuda:N"):
        pick_device(name)

"""What tutors' numbers depend on beside their weights: device, precision, memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdcli.common.errors import TutorError
from kdcli.tutor_gen.exported.load import from_torchscript
from kdcli.tutor_gen.tutors.device import device_environment, explained_shortage, full_float32
from kdcli.tutor_gen.tutors.settings import ModelSettings

SIDECAR = """
[input]
container = "list"
channels = "RGB"
scale = 1
[output]
boxes = 0
labels = 1
confidences = 2
box_frame = "input"
classes = "coco-contiguous"
"""


class Quantised(torch.nn.Module):
    """Computes with whole numbers in a function of its own, as exports of int8 networks do."""

    def forward(self, images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.quantised(images[0]), images[0]

    def quantised(self, image: torch.Tensor) -> torch.Tensor:
        whole = torch.quantize_per_tensor(image, 0.1, 0, torch.quint8)
        return torch.dequantize(torch.ops.quantized.add(whole, whole, 0.2, 0))


def test_float32_is_float32_within_the_block_and_as_before_after_it() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = True
    try:
        with full_float32():
            inside = cudnn.allow_tf32, matmul.allow_tf32
        assert inside == (False, False)
        assert cudnn.allow_tf32
    finally:
        cudnn.allow_tf32 = before


def test_a_store_records_the_device() -> None:
    assert device_environment("cpu") == {"device": "cpu"}


def test_want_of_memory_says_what_to_lower() -> None:
    for images, words in ((8, r"lower --batch-size \(8 images now\)"), (1, "tutors: take")):
        with pytest.raises(TutorError, match=words), explained_shortage(images):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="another"), explained_shortage(1):
        raise RuntimeError("another error")


@pytest.mark.filterwarnings("ignore")
def test_an_int8_export_says_that_it_wants_the_cpu(tmp_path: Path) -> None:
    """Before a GPU is asked for anything."""
    export = tmp_path / "int8.pt"
    torch.jit.save(torch.jit.script(Quantised()), str(export))
    Path(f"{export}.toml").write_text(SIDECAR)
    with pytest.raises(TutorError, match=r"int8\.pt is a quantised \(int8\) .*--device cpu"):
        from_torchscript(export, ModelSettings(masks=False, device="cuda:0"))
    assert (
        from_torchscript(export, ModelSettings(masks=False, device="cpu")).description["name"]
        == "int8.pt"
    )

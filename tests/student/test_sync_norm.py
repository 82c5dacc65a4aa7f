"""A batch norm over all processes, with one process: PyTorch's own. With two: test_distributed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdcli.student.model.sync_norm import SummedBatchNorm2d


@pytest.mark.parametrize(
    ("dtype", "apart"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)], ids=["float32", "bf16"]
)
def test_alone_it_is_a_batch_norm(dtype: torch.dtype, apart: float) -> None:
    """Output, gradients and running statistics, of values far from 0 as much as their spread.

    In bfloat16 one rounding of the output, none of the statistics, of 8,192 values each.
    """
    rng = torch.Generator().manual_seed(1)
    pixels = (3 + torch.randn(2, 4, 64, 64, generator=rng)).to(dtype)
    slope = torch.randn(pixels.shape, generator=rng).to(dtype)
    norms = nn.BatchNorm2d(4), SummedBatchNorm2d(4)
    said = []
    for norm in norms:
        x = pixels.clone().requires_grad_()
        y = norm(x)
        y.backward(slope)
        assert y.dtype == dtype
        said.append((y.detach(), x.grad, norm.weight.grad, norm.bias.grad))
    for wanted, found in zip(*said, strict=True):
        assert found.dtype == wanted.dtype
        scale = float(wanted.float().abs().max())
        assert float((found.float() - wanted.float()).abs().max()) <= apart * scale
    for name, value in norms[0].named_buffers():
        assert torch.allclose(norms[1].get_buffer(name), value, rtol=1e-5), name

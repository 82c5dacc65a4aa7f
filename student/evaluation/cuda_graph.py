"""Many small kernels launched as one: a CUDA graph of a function of one tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_WARM_UP = 2
"""Calls before the recording, in which libraries choose their kernels and allocate."""


class CudaGraph(Generic[T]):
    """A function whose kernels are recorded once, for inputs of one shape, and then replayed.

    The function must only queue work on the device: no waiting, no shapes that depend on values.

    Args:
        function: From a CUDA tensor to CUDA tensors.
        example: An input of the shape and type of all to come.
    """

    def __init__(self, function: Callable[[Tensor], T], example: Tensor) -> None:
        with torch.cuda.device(example.device):
            self._input = example.clone()
            current = torch.cuda.current_stream()
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(current)
            with torch.cuda.stream(beside):
                for _ in range(_WARM_UP):
                    function(self._input)
            current.wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            # A loader's thread that pins memory meanwhile is none of the recording's business.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = function(self._input)

    def __call__(self, x: Tensor) -> T:
        """Return the output for ``x``: the same tensors with every call, written anew."""
        self._input.copy_(x)
        self._graph.replay()
        return self._output

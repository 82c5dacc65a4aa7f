"""What a training step launches and moves, as it is and compiled: a stand-in for a GPU's clock.

Run from the repository's root:

    python -m benchmarks.bench_step [--config blitznet300-x4] [--set NAME=VALUE] [--batch 2]
        [--device auto] [--no-compile] [--out FILE]

A step here is forward and backward pass with everything before and around the network, without the
optimiser. Eager: the operations that PyTorch dispatches and that compute (views and empty tensors
do not), with the bytes of all tensors that each reads and writes. Compiled: the kernels that the
compiler plans, its own and those of libraries, with the bytes that it counts for them, likewise.
The losses are compared; the first steps are timed with an empty cache and with a full one. On a CPU
compiling takes minutes even for a small network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdcli.common.device import pick_device
from kdcli.student.config.machine import fitted
from kdcli.student.config.schema import RunConfig
from kdcli.student.config.toml import run_config
from kdcli.student.data.batch import Batch
from kdcli.student.measure import drawn_batch
from kdcli.student.training.trainer import Trainer

COPIES = frozenset({"_to_copy", "clone", "copy_", "copy", "convert_element_type"})
IDLE = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
                  "detach", "_unsafe_view", "lift_fresh"})  # fmt: skip


@dataclass
class Counted:
    """What was launched: all of it, what only copies or casts, what libraries do; bytes moved."""

    kernels: int = 0
    copies: int = 0
    of_libraries: int = 0
    bytes: int = 0

    def row(self, name: str, first: str = "", again: str = "") -> tuple[object, ...]:
        return name, self.kernels, self.copies, f"{self.bytes / 1e6:.0f} MB", first, again


class Dispatched(TorchDispatchMode):
    """Counts what is computed while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = Counted()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        said = func(*args, **given)
        name = func.overloadpacket.__name__
        if not func.is_view and name not in IDLE:
            tensors = [x for x in tree_leaves((args, given, said)) if isinstance(x, Tensor)]
            self.counted.kernels += 1
            self.counted.copies += name in COPIES
            self.counted.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return said


def planned(counted: Counted) -> Callable[[list[Any]], list[Any]]:
    """Return a pass of the compiler that changes nothing, and counts the kernels planned."""

    def count(nodes: list[Any]) -> list[Any]:
        for node in nodes:
            if type(node).__name__ == "NopKernelSchedulerNode":
                continue
            origins = {origin.target for part in node.get_nodes() for origin in part.node.origins}
            names = {getattr(t, "overloadpacket", t).__name__ for t in origins if callable(t)}
            counted.kernels += 1
            counted.copies += bool(names) and names <= COPIES
            counted.of_libraries += type(node).__name__ == "ExternKernelSchedulerNode"
            counted.bytes += node.get_read_write_buffers_sizes()
        return nodes

    return count


def step_of(config: RunConfig, device: torch.device, batch: Batch) -> Callable[[], float]:
    """Return a step that begins anew each time it is called: its loss."""
    trainer = Trainer(config, device)
    trainer.to_device()

    def step() -> float:
        trainer.model.zero_grad(set_to_none=True)
        total, _ = trainer.loss(batch)
        total.backward()
        return float(total.detach())

    return step


def timed(step: Callable[[], float]) -> tuple[float, float]:
    begun = time.perf_counter()
    loss = step()
    return loss, time.perf_counter() - begun


def eagerly(config: RunConfig, device: torch.device, batch: Batch) -> tuple[float, Counted]:
    """Return the loss of an eager step, and what it launches."""
    step = step_of(replace(config, runtime=replace(config.runtime, compile=False)), device, batch)
    with Dispatched() as eager:
        loss = step()
    return loss, eager.counted


def compiled(
    config: RunConfig, device: torch.device, batch: Batch, expected: float
) -> Iterator[tuple[object, ...]]:
    """Yield the compiled step's row, and how far its loss is from the one expected."""
    from torch._inductor import config as compiler
    from torch._inductor.utils import fresh_cache

    fast = replace(config, runtime=replace(config.runtime, compile=True))
    found = Counted()
    with fresh_cache():
        torch.compiler.reset()
        loss, first = timed(step_of(fast, device, batch))
        torch.compiler.reset()
        _, again = timed(step_of(fast, device, batch))
        torch.compiler.reset()
        with compiler.patch({"_post_fusion_custom_pass": planned(found)}):
            step_of(fast, device, batch)()
    name = f"compiled, {found.of_libraries} of them by libraries"
    yield found.row(name, f"{first:.0f} s", f"{again:.0f} s")
    yield "difference of the loss", f"{abs(loss - expected) / abs(expected):.0e}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="blitznet300-x4")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="write the table as text, too")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    device = pick_device(options.device)
    changes = [f"optim.batch_size={options.batch}", "init.trunk=", *options.set]
    config = fitted(run_config(options.config, changes), device)
    title = (
        f"{options.config}, batch {options.batch}, on {device}, torch {torch.__version__}; "
        f"bf16 {config.optim.bf16}, channels last {config.runtime.channels_last}"
    )
    heads = ["a step", "kernels", "copies, casts", "moved", "first step", "from a cache"]
    batch = drawn_batch(config, options.batch).to(device)
    loss, counted = eagerly(config, device, batch)
    rows = [counted.row("eager")]
    if options.compile:
        rows += compiled(config, device, batch, loss)
    text = title + "\n" + tabulate(rows, heads)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Asynchronous updates: parameters wait until enough images that teach them were seen.

UberNet (Kokkinos, arXiv 1609.02132) trains on data sets that each lack the ground truth of some
tasks. In a common batch a task that few images teach would step along the gradient of these few.
There, the parameters p have a counter c_p and an effective batch B_p: an image adds its gradient
to a sum and 1 to the counter where it teaches them, and once c_p reaches B_p they are updated with
the sum divided by c_p, and both are 0 again. Every image teaches what the tasks share.

Here an update averages over *images, of losses normalised within a micro batch*. Let micro batch j
have B_j images, n_j of which learn the task, with the loss L_j (`student.training.step.objective`:
normalised by the positives or pixels of these n_j alone). Its loss of all tasks, T_j, has L_j with
the factor n_j / B_j. The update's gradient is, since the last one,

    shared:      sum_j B_j grad T_j / sum_j B_j
    task's own:  sum_j B_j grad T_j / sum_j n_j  =  sum_j n_j grad L_j / sum_j n_j

so that a micro batch counts by its images, whatever its positives and pixels. The synchronous
update of a task's own parameters is grad T_j instead, smaller by n_j / B_j; where every image
learns every task and each group waits for one step, the two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdcli.common.distributed import sum_over_ranks
from kdcli.student.config.schema import OptimConfig
from kdcli.student.config.tasks import SHARED, TASK_NAMES
from kdcli.student.data.batch import Batch


class AsynchronousUpdates:
    """Sums of gradients, and how many images are in them.

    Stands between the gradients and one Adam, which leaves out parameters without a gradient, and
    counts the steps of each on its own: so every group has moments, bias correction and weight
    decay of its own updates alone. The learning rate is that of the step that an update falls in.

    All processes hold the same sums, of gradients that they have added up.

    Attributes:
        samples: Of each group, the images since its last update.
        updates: Of each group, its updates so far.
    """

    def __init__(self, model: nn.Module, optim: OptimConfig) -> None:
        """Start with nothing seen.

        Args:
            model: Its submodules that are called as a task are that task's own.
            optim: Step and effective batches.
        """
        self._groups = parameters_by_group(model)
        waits, batch = optim.asynchronous, optim.batch_size
        self._least = {group: waits.effective_batch(group, batch) for group in self._groups}
        self._sums: dict[str, Tensor] = {}
        self.samples = dict.fromkeys(self._groups, 0)
        self.updates = dict.fromkeys(self._groups, 0)

    def exchange(self, seen: Mapping[str, int]) -> None:
        """Take in the gradients of a step; leave those of the updates due in their place.

        Parameters whose update is not due have no gradient afterwards.

        Args:
            seen: Of each group, the step's images that teach it; ``samples_of_step``.
        """
        for group, parameters in self._groups.items():
            self.samples[group] += seen[group]
            self._add(parameters, seen[SHARED])
            if self.samples[group] < self._least[group]:
                continue
            for name, parameter in parameters.items():
                if name in self._sums:
                    parameter.grad = self._sums.pop(name).div_(self.samples[group])
            self.samples[group] = 0
            self.updates[group] += 1

    def _add(self, parameters: Mapping[str, nn.Parameter], images: int) -> None:
        """Move gradients, means over ``images``, to the sums."""
        for name, parameter in parameters.items():
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            if name in self._sums:
                self._sums[name].add_(gradient, alpha=images)
            else:
                self._sums[name] = gradient.mul_(images)  # nobody else holds it any more

    def scalars(self) -> dict[str, float]:
        """Return for the loss curve ``updates/GROUP`` so far, and ``waiting/GROUP``: samples."""
        values = {"updates": self.updates, "waiting": self.samples}
        return {f"{kind}/{group}": n for kind, own in values.items() for group, n in own.items()}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold: tensors and numbers."""
        return {"sums": self._sums, "samples": self.samples, "updates": self.updates}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned, on whatever device it lies."""
        places = {name: p.device for own in self._groups.values() for name, p in own.items()}
        self._sums = {name: total.to(places[name]) for name, total in state["sums"].items()}
        self.samples, self.updates = dict(state["samples"]), dict(state["updates"])


def parameters_by_group(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Return the parameters that train by name: `SHARED`, and those of each task of the model."""
    tasks = [task for task in TASK_NAMES if hasattr(model, task)]
    groups: dict[str, dict[str, nn.Parameter]] = {group: {} for group in (SHARED, *tasks)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = name.partition(".")[0]
            groups[part if part in tasks else SHARED][name] = parameter
    return groups


def samples_of_step(batches: Sequence[Batch]) -> dict[str, int]:
    """Return how many images of all processes' batches teach each group."""
    own = [[len(batch), *batch.learners.values()] for batch in batches]
    # Counts stay on the host, where the batches brought them: nothing waits for the device.
    totals: list[int] = sum_over_ranks(torch.tensor(own).sum(dim=0)).tolist()
    return dict(zip((SHARED, *batches[0].learners), totals, strict=True))

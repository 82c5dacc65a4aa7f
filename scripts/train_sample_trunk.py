"""Train ``student/sample/tiny-trunk.pth``: what ImageNet weights are to BlitzNet, for drawn scenes.

    python scripts/train_sample_trunk.py

The trunk of the tiny BlitzNet learns to name single objects cut out of drawn scenes, from random
weights on the CPU, and is saved in half precision under torchvision's names. Its scenes come from
a seed that neither the demo nor the tests use.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from kdcli.student.model.config import PRESETS
from kdcli.student.model.preprocessing import normalise
from kdcli.student.model.resnet import Trunk
from kdcli.voc.classes import NUM_CLASSES
from kdcli.voc.scenes.dataset import Scene, draw_scene

OUT = Path(__file__).resolve().parents[1] / "student" / "sample" / "tiny-trunk.pth"
CONFIG = PRESETS["tiny"]
SEED = 8_000_000
HELD_OUT = 0.1
"""Scenes drawn beyond those of training, as a share of them."""
SIDE = 96
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 1e-2


def main() -> None:
    """Draw, train, report the accuracy on held-out objects, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=4000, help="to train on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    scenes = arguments.scenes
    images, labels = cut_objects(range(scenes), rng)
    classifier = Classifier()
    train(classifier, images, labels, arguments.epochs, arguments.batch)
    held_out = cut_objects(range(scenes, scenes + max(1, round(HELD_OUT * scenes))), rng)
    print(f"accuracy on {len(held_out[1])} held-out objects: {accuracy(classifier, *held_out):.3f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    state = classifier.trunk.state_dict()
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()},
               arguments.out)  # fmt: skip
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


class Classifier(nn.Module):
    """The trunk, the mean over its last map, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(CONFIG)
        self.head = nn.Linear(CONFIG.block_widths[3], NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, 21) logits."""
        logits: Tensor = self.head(self.trunk(images)[-1].mean(dim=(2, 3)))
        return logits


def cut_objects(indices: range, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Objects with some of their surroundings: images (N, 3, SIDE, SIDE) uint8, labels (N,)."""
    crops, labels = [], []
    for index in indices:
        scene = draw_scene(SEED, index)
        for box, label in zip(scene.annotation.boxes, scene.annotation.labels, strict=True):
            crops.append(_crop(scene, box, rng))
            labels.append(int(label))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), torch.tensor(labels)


def _crop(scene: Scene, box: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A square window around a box, 1.1 to 2.2 times its longer side, moved a little."""
    x1, y1, x2, y2 = box.tolist()
    side = max(x2 - x1, y2 - y1) * rng.uniform(1.1, 2.2)
    x, y = ((a + b) / 2 - side / 2 + side * rng.uniform(-0.1, 0.1) for a, b in ((x1, x2), (y1, y2)))
    window = Image.fromarray(scene.image).transform(
        (SIDE, SIDE),
        Image.Transform.EXTENT,
        (x, y, x + side, y + side),
        resample=Image.Resampling.BILINEAR,
        fillcolor=(123, 116, 103),
    )
    return np.asarray(window)


def train(model: Classifier, images: Tensor, labels: Tensor, epochs: int, batch: int) -> None:
    """AdamW with one cycle; every epoch sees each object once, flipped and shifted at random."""
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    started = time.monotonic()
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(labels))[: len(labels) // batch * batch].reshape(
            -1, batch
        ):
            loss = F.cross_entropy(model(_augmented(images[chosen])), labels[chosen])
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(labels) // batch)
        print(
            f"{epoch + 1}/{epochs}  {time.monotonic() - started:.0f} s  loss {mean:.3f}", flush=True
        )


def _augmented(images: Tensor) -> Tensor:
    if torch.rand(()) < 0.5:
        images = images.flip(3)
    side = int(torch.randint(48, SIDE + 1, ()))
    return F.interpolate(
        normalise(images, CONFIG), size=(side, side), mode="bilinear", antialias=True
    )


@torch.no_grad()
def accuracy(model: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of objects that are named rightly."""
    model.eval()
    right = model(normalise(images, CONFIG)).argmax(dim=1) == labels
    return float(right.float().mean())


if __name__ == "__main__":
    main()

"""Train the two sample tutors of ``tutor_gen/sample`` on drawn scenes.

    python scripts/train_sample_tutors.py detection
    python scripts/train_sample_tutors.py segmentation

Each is a small Detectron2 model, trained from random weights on the CPU and saved in half precision
beside its configuration. Scenes come from seeds that neither the demo nor the tests use.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutor_gen import _detectron2_v06
from tutor_gen.coco import voc_ids
from tutor_gen.sidecar import read_class_names
from voc.sample import Scene, draw_scene

_detectron2_v06.apply()

from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import transforms as T  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.structures import BitMasks, Boxes, Instances  # noqa: E402
from detectron2.utils.events import EventStorage  # noqa: E402
from fvcore.nn.precise_bn import (  # type: ignore[import-untyped]  # noqa: E402
    update_bn_stats,
)

SAMPLE = Path(__file__).resolve().parents[1] / "tutor_gen" / "sample"
TRAINING_SEEDS = {"detection": 7_000_000, "segmentation": 7_100_000}
SCENES = 6000
"""Distinct scenes a model sees, each several times at other sizes and flipped."""
SIDES = (144, 160, 176, 192)
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
LARGEST_GRADIENT = 2.0


def main() -> None:
    """Train one model and write its weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("role", choices=tuple(TRAINING_SEEDS))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="default: beside the configuration")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config_file = SAMPLE / f"{arguments.role}.yaml"
    out = arguments.out or config_file.with_suffix(".pth")
    train(config_file, TRAINING_SEEDS[arguments.role], arguments.steps, arguments.batch, out)


def train(config_file: Path, seed: int, steps: int, batch: int, out: Path) -> None:
    """Train the model of ``config_file`` for ``steps`` batches and save it to ``out``."""
    config = get_cfg()
    config.merge_from_file(str(config_file))
    torch.manual_seed(seed)
    model = build_model(config)
    speed_up_backbone(model)
    batches = draw_batches(seed, batch, read_class_names(config_file), config.INPUT.MAX_SIZE_TEST)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=LEARNING_RATE, total_steps=steps, pct_start=0.1
    )
    start = time.perf_counter()
    model.train()
    with EventStorage():
        for step in range(1, steps + 1):
            losses = model(next(batches))
            optimiser.zero_grad()
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
            optimiser.step()
            schedule.step()
            if step % 50 == 0 or step == steps:
                parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
                print(f"{step}/{steps}  {time.perf_counter() - start:.0f} s  {parts}", flush=True)
            if step % 500 == 0:
                save(model, out)
        # The running averages lag behind the weights; evaluation needs the statistics of now.
        update_bn_stats(model, batches, num_iters=100)
    save(model, out)


def speed_up_backbone(model: Any) -> None:
    """Run the backbone in bfloat16 and channels-last while training; the heads stay as they are."""
    backbone = model.backbone.to(memory_format=torch.channels_last)
    forward = backbone.forward

    def fast_forward(images: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            maps = forward(images.contiguous(memory_format=torch.channels_last))
        return {name: value.float() for name, value in maps.items()}

    backbone.forward = fast_forward


def save(model: torch.nn.Module, out: Path) -> None:
    """Write the weights in half precision; counters and the like keep their type."""
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    torch.save({"model": weights}, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB", flush=True)


def draw_batches(
    seed: int, batch: int, class_names: list[str], longest: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield batches of Detectron2's training inputs for ever, in an order fixed by ``seed``."""
    rng = np.random.default_rng(seed)
    np.random.seed(seed % 2**32)  # Detectron2's augmentations draw from NumPy's global state
    numbers = {voc_id: number for number, voc_id in enumerate(voc_ids(class_names))}
    augmentations = T.AugmentationList(
        [T.ResizeShortestEdge(SIDES, longest, "choice"), T.RandomFlip()]
    )
    drawn: dict[int, Scene] = {}
    order: list[int] = []
    while True:
        while len(order) < batch:
            order.extend(rng.permutation(SCENES).tolist())
        chosen, order = order[:batch], order[batch:]
        for index in chosen:
            if index not in drawn:
                drawn[index] = draw_scene(seed, index)
        yield [training_input(drawn[index], numbers, augmentations) for index in chosen]


def training_input(
    scene: Scene, numbers: dict[int, int], augmentations: T.AugmentationList
) -> dict[str, Any]:
    """One scene, resized and flipped at random, as Detectron2 wants it (BGR, C x H x W)."""
    augmented = T.AugInput(np.ascontiguousarray(scene.image[..., ::-1]))
    transform = augmentations(augmented)
    labels = [numbers[label] for label in scene.annotation.labels.tolist()]
    masks = [
        transform.apply_segmentation((scene.visible == number).astype(np.uint8))
        for number in range(1, len(labels) + 1)
    ]
    instances = Instances(augmented.image.shape[:2])
    instances.gt_boxes = Boxes(transform.apply_box(scene.annotation.boxes))
    instances.gt_classes = torch.tensor(labels)
    instances.gt_masks = BitMasks(torch.from_numpy(np.stack(masks)))
    image = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
    return {"image": image, "instances": instances}


if __name__ == "__main__":
    main()

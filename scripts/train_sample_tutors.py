"""Train the two sample tutors of ``tutor_gen/sample`` on drawn scenes.

    python scripts/train_sample_tutors.py detection
    python scripts/train_sample_tutors.py segmentation
    python scripts/train_sample_tutors.py segmentation --only-evaluate

Each is a small Detectron2 model, trained from random weights on the CPU and saved in half precision
beside its configuration, then scored on held-out scenes. Training scenes come from seeds that
neither the demo nor the tests use. About 25 minutes each on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.nn.precise_bn import update_bn_stats  # type: ignore[import-untyped]
from numpy.typing import NDArray

from kdcli.tutor_gen.classes.words import label_ids
from kdcli.tutor_gen.config import Role
from kdcli.tutor_gen.detectron2.door import (
    BitMasks,
    Boxes,
    Detectron2Instances,
    EventStorage,
    T,
    build_model,
    get_cfg,
)
from kdcli.tutor_gen.labels.hard import code_label_vectors
from kdcli.tutor_gen.registry import load_tutor
from kdcli.tutor_gen.tutors.sidecar import read_class_names
from kdcli.tutor_gen.tutors.tutor import Instances
from kdcli.voc.metrics import ConfusionMatrix, evaluate_detections
from kdcli.voc.scenes.dataset import Scene, draw_scene

SAMPLE = Path(__file__).resolve().parents[1] / "tutor_gen" / "sample"
TRAINING_SEEDS = {"detection": 7_000_000, "segmentation": 7_100_000}
HELD_OUT_SEED = 7_500_000
FLOORS = (0.001, 0.05, 0.3, 0.5)
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
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="default: beside the configuration")
    parser.add_argument("--held-out", type=int, default=300, help="scenes to score it on")
    parser.add_argument("--only-evaluate", action="store_true", help="score the weights in --out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config_file = SAMPLE / f"{arguments.role}.yaml"
    out = arguments.out or config_file.with_suffix(".pth")
    if not arguments.only_evaluate:
        train(config_file, TRAINING_SEEDS[arguments.role], arguments.steps, arguments.batch, out)
    evaluate(arguments.role, out, arguments.held_out)


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


def evaluate(role: Role, weights: Path, scenes: int) -> None:
    """Print average precision per class, and for masks the mean IoU, on held-out scenes."""
    tutor = load_tutor("sample", role, weights=weights)
    assert tutor is not None
    floors = {floor: ConfusionMatrix() for floor in FLOORS}
    predictions, truth = {}, {}
    seconds = 0.0
    for index in range(scenes):
        scene = draw_scene(HELD_OUT_SEED, index)
        start = time.perf_counter()
        (found,) = tutor.predict([scene.image])
        assert isinstance(found, Instances)
        seconds += time.perf_counter() - start
        name = scene.annotation.image_id
        truth[name] = scene.annotation
        predictions[name] = found
        if found.masks is not None:
            for floor, matrix in floors.items():
                matrix.update(class_map(found, floor, scene), scene.class_mask)
    result = evaluate_detections(predictions, truth)
    for name, value in result.average_precision.items():
        if result.objects[name]:
            print(f"{name:12}  AP {value:.3f}  of {result.objects[name]} objects")
    strict = evaluate_detections(predictions, truth, iou_threshold=0.75)
    print(f"mean AP {result.map:.3f}, at IoU .75 {strict.map:.3f}, {scenes} scenes")
    if role == "segmentation":
        scores = (f"{matrix.result().miou:.3f} ({floor})" for floor, matrix in floors.items())
        print(f"mean IoU (of instances above a confidence): {', '.join(scores)}")
    print(f"{1000 * seconds / scenes:.0f} ms an image")


def class_map(found: Instances, floor: float, scene: Scene) -> NDArray[np.int64]:
    """Arg max of the label vectors of the instances above ``floor``."""
    sure = found.select(found.scores >= floor, "floor")
    assert sure.masks is not None
    height, width = scene.class_mask.shape
    codes, palette = code_label_vectors(
        sure.masks.astype(np.bool_), sure.labels, sure.scores, height, width, sure.boxes
    )
    classes: NDArray[np.int64] = palette.argmax(axis=1)[codes]
    return classes


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
    numbers = {voc_id: number for number, voc_id in enumerate(label_ids(class_names))}
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
    instances = Detectron2Instances(augmented.image.shape[:2])
    instances.gt_boxes = Boxes(transform.apply_box(scene.annotation.boxes))
    instances.gt_classes = torch.tensor(labels)
    instances.gt_masks = BitMasks(torch.from_numpy(np.stack(masks)))
    image = torch.from_numpy(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
    return {"image": image, "instances": instances}


if __name__ == "__main__":
    main()

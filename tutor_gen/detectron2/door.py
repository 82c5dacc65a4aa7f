"""The one door to Detectron2: patched where it is old, imported quietly.

Importing this module imports Detectron2, which takes seconds; TutorError if it is not installed.
"""

from __future__ import annotations

import warnings

from kdcli.tutor_gen.detectron2 import v06 as _detectron2_v06

_detectron2_v06.apply()
with warnings.catch_warnings():
    # Detectron2 uses names that PyTorch and setuptools deprecate.
    warnings.simplefilter("ignore")
    from detectron2 import model_zoo
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode, get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.data import transforms as T
    from detectron2.engine import DefaultPredictor
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.layers.mask_ops import paste_masks_in_image
    from detectron2.modeling import (
        META_ARCH_REGISTRY,
        GeneralizedRCNN,
        PanopticFPN,
        build_model,
    )
    from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
    from detectron2.structures import BitMasks, Boxes
    from detectron2.structures import Instances as Detectron2Instances
    from detectron2.utils.events import EventStorage
    from detectron2.utils.file_io import PathManager

__all__ = [
    "META_ARCH_REGISTRY",
    "BitMasks",
    "Boxes",
    "CfgNode",
    "DefaultPredictor",
    "DetectionCheckpointer",
    "Detectron2Instances",
    "EventStorage",
    "FastRCNNOutputLayers",
    "FrozenBatchNorm2d",
    "GeneralizedRCNN",
    "MetadataCatalog",
    "PanopticFPN",
    "PathManager",
    "T",
    "build_model",
    "detector_postprocess",
    "get_cfg",
    "model_zoo",
    "paste_masks_in_image",
    "sem_seg_postprocess",
]

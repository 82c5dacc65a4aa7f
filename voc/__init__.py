"""PASCAL VOC as data: classes, devkit layout, boxes, masks, metrics, and drawn sample scenes."""

"""COCO's JSON: objects with boxes, polygons or run-length masks, read into and made from VOC's."""

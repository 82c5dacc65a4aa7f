"""What tutors said as labels that other programs read: COCO's JSON, VOC's files, YOLO's text."""

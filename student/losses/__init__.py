"""What a batch is judged by: matching, losses, targets of the segmentation tutor."""

"""An open store: mapped files, one image at a time."""

"""What all rooms share: errors, files, progress, processes, devices. Imports nothing of ours."""

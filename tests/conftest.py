"""Settings of all tests."""

import os

# As in cli.py: before PyTorch is loaded, by us or by a process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

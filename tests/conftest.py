"""Settings of all tests."""

import os
import signal

# As in cli.py: before PyTorch is loaded, by us or by a process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A shell starts background jobs with SIGINT ignored, and the processes of tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

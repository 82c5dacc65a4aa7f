"""Tutors that are exports, TorchScript or ONNX, each with a sidecar that says how to use it."""

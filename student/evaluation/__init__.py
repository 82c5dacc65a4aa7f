"""A trained student applied: scores, predictions, galleries, ONNX."""

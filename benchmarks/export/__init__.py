"""Exported policies: ONNX, QONNX and packed weights of a record's network."""

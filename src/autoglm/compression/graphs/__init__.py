"""Compression of ONNX networks, those with convolutions above all; they run on ONNX Runtime."""

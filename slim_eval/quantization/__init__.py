"""Quantization: schemes, calibration data, llm-compressor, and the cache of quantized checkpoints."""

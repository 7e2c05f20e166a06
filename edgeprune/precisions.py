"""What the weights of a graph can be, in the words of `--precision` and of the manifest. No import.

`targets` says which of the quantised ones a device has products of, `export.quantise.scheme` what each computes in.
"""

from __future__ import annotations

__all__ = ["CALIBRATED", "FLOATS", "INT8", "PRECISIONS", "QUANTISED"]

FLOATS = ("float32", "float16")
INT8 = ("int8", "int8-dynamic")
"""those that ONNX Runtime has on the CPU"""
QUANTISED = (*INT8, "fp8")
"""those of fewer bits for most products with weights"""
CALIBRATED = ("int8", "fp8")
"""those whose ranges are taken of images"""
PRECISIONS = (*FLOATS, *QUANTISED)

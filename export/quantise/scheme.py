"""The ways of quantising: what each computes in, and which target takes it. No torch.

    precision       activations                                  weights                     targets
    int8            u8, asymmetric: ONNX Runtime on the CPU      s7, of each output channel  CPU
                    s8, symmetric: all that TensorRT takes       s8, of each output channel  TensorRT, TensorRT-RTX
    int8-dynamic    u8, of the range that each run has           s7, of each output channel  CPU
    fp8             f8e4m3, symmetric                            f8e4m3, the same            TensorRT, SM 89 and later

One range for a whole tensor of activations, one scale for each output channel of a weight. On the CPU weights have the
129 steps from -64 to 64 (s7, stored as int8): without VNNI an x86 adds products in pairs in 16 bits, which 255 * 64 * 2
fits and 255 * 127 * 2 does not. With all 8 bits the embedded model's tokens are .028 off there and .013 by the
arithmetic; with 7 they are .015 off, by both and on every machine.

Source  https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
        https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeprune.errors import RequestError
from edgeprune.precisions import QUANTISED
from edgeprune.targets import Target

__all__ = ["Activations", "Scheme", "scheme_of"]

FP8_SM = 89
"""the first compute capability that has products of f8e4m3"""
FLOAT16_OPSET = 19
"""the first in which QuantizeLinear takes float16, or gives f8e4m3"""

Activations = Literal["u8", "s8", "f8e4m3"]


@dataclass(frozen=True)
class Scheme:
    precision: str
    """of QUANTISED"""
    activations: Activations
    """what the inputs of products become"""
    rest: Literal["float16", "float32"]
    """what everything else is computed in"""

    @property
    def dynamic(self) -> bool:
        """Whether each run takes its own ranges, so that nothing is calibrated."""
        return self.precision == "int8-dynamic"

    @property
    def percentile(self) -> float:
        """Of the values of a tensor, those that a range is to hold, in percent. A float8 is as exact near the end of a
        range as elsewhere: nothing is gained by a shorter one."""
        return 100.0 if self.precision == "fp8" else 99.99

    @property
    def weights(self) -> Literal["s7", "s8", "f8e4m3"]:
        return "s7" if self.activations == "u8" else self.activations

    @property
    def opset(self) -> int:
        """The first in which the graph can be written."""
        return FLOAT16_OPSET if self.rest == "float16" or self.precision == "fp8" else 0


def scheme_of(precision: str | None, target: Target) -> Scheme | None:
    """How a precision is computed on a target; None where it is a float.

    Raises RequestError when the target has no such products.
    """
    if precision not in QUANTISED:
        return None
    provider, engine = target.provider, target.engine
    if precision == "fp8":
        _check_fp8(target)
    elif provider == "CUDAExecutionProvider":
        raise RequestError(
            f"--precision {precision} needs a target with products of int8; {target.name} would compute them in "
            f"{target.onnx.float}, behind a cast: choose --target cpu or one of TensorRT, or leave it out"
        )
    elif precision == "int8-dynamic" and provider is None:
        raise RequestError(
            f"--precision int8-dynamic takes its ranges at run time, which {engine.kind} of {target.name} cannot; give "
            "--precision int8"
        )
    if precision not in engine.quantised:
        has = ", ".join((target.onnx.float, *engine.quantised))
        raise RequestError(
            f"--precision {precision} needs a target with such products, {target.name} has {has}; choose another "
            "--target, or leave it out"
        )
    if precision == "fp8":
        return Scheme("fp8", "f8e4m3", target.onnx.float)
    return Scheme(precision, "u8" if provider else "s8", target.onnx.float)


def _check_fp8(target: Target) -> None:
    old = [sm for sm in (target.gpu.sm if target.gpu else ()) if sm < FP8_SM]
    if target.engine.kind == "onnxruntime" or old:
        has = f"SM {old[0]}, which has none" if old else "ONNX Runtime, which has none"
        raise RequestError(
            f"--precision fp8 needs a target with products of float8, SM {FP8_SM} or later; {target.name} has {has}: "
            "give --precision int8, or another --target"
        )

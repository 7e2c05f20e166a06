"""What of an encoder is quantised: calibrated and chosen before the graph is traced, written into it after.

float module --calibrated--> ranges --chosen--> which products stay float --traced--> graph --write_quantised-->
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgeprune.encoders import Encoder
from edgeprune.export.quantise.calibration import Calibration, Source, calibrated
from edgeprune.export.quantise.products import Products, products_of
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.write import write_quantised
from edgeprune.pruners import Method
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.trace import PrunedEncoder

__all__ = ["BOUNDS", "Plan", "planned"]

BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
DISABLED = {"u8": "MatMulAddFusion"}
"""ONNX Runtime's optimizer that a graph of such activations must do without: it joins a product and the addition behind
it to a Gemm before quantised products are looked for"""
OTHERS = "QDQSelectorActionTransformer"
"""that of a graph for another device: integers as this CPU adds them, 16 bits at a time where it has no VNNI, say
nothing of that device, so that the numbers between the integers are computed in float"""

Told = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is quantised, and how."""

    scheme: Scheme
    products: Products
    floats: Mapping[str, str]
    """products that stay float -> why: asked, or measured"""
    errors: Mapping[str, float]
    smoothed: tuple[str, ...]
    calibration: Calibration | None

    def write(self, model: ir.Model) -> dict[str, Any]:
        """Quantise the graph, in place; returns `quantised` of the manifest."""
        ranges = {} if self.calibration is None else self.calibration.ranges
        wanted = {name: ranges.get(name, (0.0, 0.0)) for name in self.products if name not in self.floats}
        found = write_quantised(model, wanted, self.scheme)
        names = [name for name in self.products if name in found or name in self.floats]
        disabled = [] if self.scheme.dynamic else [DISABLED.get(self.scheme.activations, OTHERS)]
        return {
            "scheme": self.scheme.precision,
            "activations": None if self.scheme.dynamic else self.scheme.activations,
            "smoothed": [name for name in self.smoothed if name in found],
            "layers": [
                {
                    "name": name,
                    "error": self.errors.get(name, 0.0),
                    "float": name in self.floats,
                    "why": self.floats.get(name, ""),
                }
                for name in names
            ],
            "calibration": None if self.calibration is None else self.calibration.to_json(sorted(found)),
            "bounds": BOUNDS,
            "session": {"cpu": {"disable": disabled}},
        }


def planned(
    encoder: Encoder,
    method: Method,
    scheme: Scheme,
    source: Source,
    preprocessing: Preprocessing,
    batch: int,
    told: Told = lambda what: None,
) -> Plan:
    """What of an encoder is quantised."""
    module = PrunedEncoder(encoder, method).eval()
    products = products_of(module, encoder)
    calibration = None
    if not scheme.dynamic:
        calibration = calibrated(module, products, source, preprocessing, batch, told)
        products = {name: part for name, part in products.items() if name in calibration.ranges}
    return Plan(scheme, products, {}, {}, (), calibration)

"""What of an encoder is quantised: calibrated and chosen before the graph is traced, written into it after.

float module --calibrated--> ranges --chosen--> which products stay float --traced--> graph --write_quantised-->
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from torch import nn

from edgeprune.encoders import Encoder
from edgeprune.export.cost import formula
from edgeprune.export.quantise.calibration import Calibration, Calibrator, Source, batch_of
from edgeprune.export.quantise.choose import asked_float, errors_of, fewest_floats
from edgeprune.export.quantise.products import Products, products_of, quantising
from edgeprune.export.quantise.scheme import Scheme
from edgeprune.export.quantise.smooth import behind_norms, smooth
from edgeprune.export.quantise.write import write_quantised
from edgeprune.pruners import Method
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.trace import PrunedEncoder

__all__ = ["BOUNDS", "Plan", "planned"]

BOUNDS = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
IN_FLOAT = "QDQSelectorActionTransformer"
DISABLED = {"u8": ["MatMulAddFusion"], "s8": [IN_FLOAT], "f8e4m3": [IN_FLOAT, "ReluQuantRewrite"]}
"""ONNX Runtime's optimizers that must not run on the CPU, by what activations become. The first joins a product and the
addition behind it to a Gemm before quantised products are looked for. The second finds them, in graphs for other
devices: integers as this CPU adds them, 16 bits at a time where it has no VNNI, say nothing of those, so that what
stands between them is computed in float. The third leaves out a Relu in front of float8, whose 0 it takes for the
lowest number."""
MARGIN = 0.9
"""of the bounds, that the graph has to keep before it is made: two executors of it differ by about a hundredth"""
FEW = 8
"""images that outliers are looked for on: they are in the same channels of all"""
MOST_TRIED, WORK = 8, 2 * 10**11
"""images that products are tried on one by one, and the multiply-adds that they may take, beyond the first"""

Told = Callable[[str], None]
Judge = Callable[[nn.Module, Mapping[str, float]], str]


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
        written = write_quantised(model, wanted, self.scheme)
        names = [name for name in self.products if name in written or name in self.floats]
        disabled = [] if self.scheme.dynamic else DISABLED[self.scheme.activations]
        return {
            "scheme": self.scheme.precision,
            "activations": None if self.scheme.dynamic else self.scheme.activations,
            "smoothed": [name for name in self.smoothed if name in written],
            "products": [
                {
                    "name": name,
                    "error": self.errors.get(name, 0.0),
                    "float": name in self.floats,
                    "why": self.floats.get(name, ""),
                }
                for name in names
            ],
            "calibration": None if self.calibration is None else self.calibration.to_json(sorted(written)),
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
    judge: Judge,
    keep_float: Sequence[str] = (),
    told: Told = lambda what: None,
) -> Plan:
    """What of an encoder is quantised. Smoothing moves powers of two between its norms and its products; what it
    computes stays the same.

    batch: images of one run
    judge: (the module that is to be traced, bounds) -> what of its outputs is beyond them, or nothing
    keep_float: names of products, or patterns

    Raises RequestError where images tell nothing of a product or no product has such a name, ParityError where too few
    products can be quantised.
    """
    module = PrunedEncoder(encoder, method).eval()
    products = products_of(module, encoder)
    asked = asked_float(keep_float, products)
    calibrator = Calibrator(module, products, source, preprocessing, batch, told)
    with behind_norms(module, products) as norms:
        calibrator.run("outliers", FEW)
    first = calibrator.calibration()
    products = {name: part for name, part in products.items() if name in first.ranges}
    asked = {name: why for name, why in asked.items() if name in products}
    smoothed = () if scheme.precision == "fp8" else smooth(module, products, norms, first.largest)
    calibration, ranges = None, first.ranges
    if not scheme.dynamic:
        calibrator.again("ranges", smoothed)
        calibrator.run("ranges")
        calibration = calibrator.calibration(scheme.percentile)
        calibration.check(name for name in products if name not in asked)
        ranges = calibration.ranges
    few = min(MOST_TRIED, max(1, WORK // formula(encoder, method)), -(-source.count // batch))
    images = [batch_of(source, preprocessing, batch, at)[0] for at in range(few)]
    errors = errors_of(module, encoder, products, ranges, scheme, images, told)

    def judged(names: Sequence[str]) -> str:
        with quantising(products, names, ranges, scheme):
            return judge(module, {name: MARGIN * bound for name, bound in BOUNDS.items()})

    free = {name: error for name, error in errors.items() if name not in asked}
    floats = fewest_floats(free, asked, judged, scheme.precision, told)
    return Plan(scheme, products, floats, errors, smoothed, calibration)

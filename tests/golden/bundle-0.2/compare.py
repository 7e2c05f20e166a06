r"""Parity with reference.safetensors in Polygraphy: the decisions of a run are judged, not its numbers by position.

    polygraphy run encoder.onnx --onnxrt \
        --data-loader-script compare.py --load-outputs probes.json --compare-func-script compare.py

It reads the probes from this folder; probes.json says which of them each run is, and without it nothing is compared.
Needs polygraphy, safetensors and edgeprune.
"""

from pathlib import Path

from edgeprune.runtime import polygraphy_compare

FOLDER = Path(__file__).resolve().parent


def load_data():
    return polygraphy_compare.load_data(FOLDER)


def compare_outputs(first, second):
    return polygraphy_compare.compare_outputs(FOLDER, first, second)

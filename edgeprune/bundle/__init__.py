"""The folder that an export leaves: its files, its manifest, and how both are written and read (no torch).

    out/
      manifest.json             what the bundle is, and the size and sha256 of every other file (`manifest`)
      encoder.onnx (+ .data)    the pruned encoder
      encoder.<target>.plan     an engine, where one was built: the builder's bytes and nothing else
      baseline.<name>.onnx      what it is measured against (unpruned, official, pool, matmul), on encoder.onnx.data
      reference.safetensors     probe inputs and the outputs of the independent reference
      preprocessor_config.json  the image processor, as Hugging Face writes it
      compare.py, probes.json   parity in Polygraphy: what `polygraphy run` takes the probes and the comparison from
      build.sh, README.md       the recipe for an engine, and the page that is followed on the device
      edgeprune-<version>.whl   edgeprune itself without its models, for the device to install

A bundle is called by its folder, a file in it, or its name in the Hugging Face cache (`finding`).

File names are relative, with `/`, and stay inside the folder. Which file is which graph stands in the manifest.

Writing is atomic: everything goes to a hidden folder beside the output, which takes its name at the very end. A
failure leaves nothing, not even the parent folders that were made for it. An engine comes later (`add_engine`): its
plan takes its name, then a manifest that lists it takes the place of the old one.
"""

from edgeprune.bundle.engines import add_engine
from edgeprune.bundle.finding import find
from edgeprune.bundle.manifest import MANIFEST, Manifest, json_text
from edgeprune.bundle.reading import Bundle, describe_files, load
from edgeprune.bundle.schema import ENCODE, ENCODER, KINDS, SCHEMA_VERSION, SELECT, File, Graph, Model, Plan, TensorSpec
from edgeprune.bundle.writing import Kind, check_output, writing

__all__ = [
    "ENCODE",
    "ENCODER",
    "KINDS",
    "MANIFEST",
    "SCHEMA_VERSION",
    "SELECT",
    "Bundle",
    "File",
    "Graph",
    "Kind",
    "Manifest",
    "Model",
    "Plan",
    "TensorSpec",
    "add_engine",
    "check_output",
    "describe_files",
    "find",
    "json_text",
    "load",
    "writing",
]

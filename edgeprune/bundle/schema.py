"""The fields of a manifest, and what follows from them. How they are read and written: `manifest`; what must agree:
`agreement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "ENCODE",
    "ENCODER",
    "KINDS",
    "SCHEMA_VERSION",
    "SELECT",
    "Fields",
    "File",
    "Graph",
    "Model",
    "Plan",
    "TensorSpec",
    "words",
]

SCHEMA_VERSION = "2.0"
ENCODER = "encoder"
"""name of the pruned graph"""
ENCODE, SELECT = "encode", "select"
"""names of its halves, where it was split: what the pixels decide, and what a question or a prior does"""
KINDS: Mapping[str, tuple[str, ...]] = {
    "tokens": ("tokens",),
    "detections": ("logits", "pred_boxes"),
    "logits": ("logits",),
}
"""what an encoder gives -> the outputs that it does so with, in order; it is of the first kind whose outputs it has"""
BASELINE = "baseline."
"""how the names of the graphs begin that it is measured against"""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph; a dimension is an int, or "batch" under --dynamic-batch."""

    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class Graph:
    file: str
    """file name"""
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    """of a baseline from schema 1.x both are empty: it did not say"""


@dataclass(frozen=True)
class File:
    size: int
    """bytes"""
    sha256: str


@dataclass(frozen=True)
class Model:
    id: str
    """the Hugging Face id or the folder's name"""
    revision: str
    """commit on the hub; `local` for a folder"""
    family: str
    """file name in edgeprune/encoders"""
    layer: int
    """layers of the encoder that are in the graph, up to and including the feature layer"""
    features: str
    """what of transformers' output they give: hidden_states[layer], or last_hidden_state, behind a final norm if any"""


@dataclass(frozen=True)
class Plan:
    """A plan of the bundle, what it fits, and how it was built."""

    plan: str
    """file name; its size and sha256 stand with those of the other files"""
    kind: str
    """tensorrt or tensorrt-rtx"""
    version: str
    """of the builder; a plan of TensorRT runs on this one only"""
    sm: tuple[int, ...]
    """compute capabilities without the dot, each of which can run it"""
    system: str
    """what built it, such as `Linux x86_64`"""
    flags: tuple[str, ...]
    """of the builder, by NVIDIA's names"""
    build_ms: int


@dataclass(frozen=True)
class Fields:
    method: str
    options: Mapping[str, Any]
    keep: int
    """tokens kept of each image or tile, K; of all tiles where they are one pool of candidates"""
    grid: tuple[int, int]
    """patches (rows, columns); N is their product"""
    tiles: int
    """images, frames or tiles of one image per run, B"""
    model: Model
    precision: str
    """what the weights are: float32, float16, int8, int8-dynamic or fp8; with `quantised`, those of most products"""
    graphs: Mapping[str, Graph]
    """name -> graph; `encoder` is there, and what it is measured against as `baseline.<name>`"""
    preprocessing: Mapping[str, Any]
    target: str
    cost: Mapping[str, int]
    """multiply-adds of one run: formula, graph, unpruned_formula, and <baseline>_graph of each baseline"""
    deviations: tuple[str, ...]
    """where the graph departs from the official code, and why"""
    versions: Mapping[str, str]
    files: Mapping[str, File] = field(default_factory=dict)
    engines: Mapping[str, Plan] = field(default_factory=dict)
    """target -> what was built for it"""
    steps: tuple[tuple[int, int], ...] = ()
    """(layers, tokens left behind them) of each place where tokens go"""
    layers: tuple[tuple[int, int, int], ...] = ()
    """(tokens, multiply-adds, multiply-adds unpruned) of each layer, of one image; where tokens go inside"""
    inside: Mapping[str, Any] = field(default_factory=dict)
    """what shortens the sequence on the way: `reducer` and its `options`; empty where nothing does but the method"""
    learned: Mapping[str, Any] = field(default_factory=dict)
    """what was learned for such steps, `adapted`, `correction` or the counts of `schedule`, and from what; empty where
    nothing was"""
    ports: Mapping[str, Any] = field(default_factory=dict)
    """input -> what the graph is given beside the pixels: `what`, in words, `blank`, what each number of it is where
    nothing is given, null where something has to be, and of a text its `space`"""
    nested: bool = False
    """whether the first k of `picks` are what a budget of k would keep"""
    rule: Mapping[str, Any] = field(default_factory=dict)
    """how parity judges the choices: `name`, and what that rule needs to know"""
    layout: str = ""
    """how a language model is to be given the tokens, where there is more to say than their order"""
    labels: tuple[str, ...] = ()
    """the classes of a head, in the order of its logits; a detector's have one more, the last, for "no object" """
    float32_nodes: tuple[str, ...] = ()
    """of the encoder, in its order: what a builder that chooses float16 by itself has to leave in float32"""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """of --keep auto: what was wanted, and what was measured on which images; empty where the budget was given"""
    quantised: Mapping[str, Any] | None = None
    """of a graph whose products have fewer bits: `scheme`, `activations`, `smoothed`, `products`, `calibration`, and
    the `bounds` and `session` options that a runtime has to know; None of a float one"""
    schema_version: str = SCHEMA_VERSION
    """of the file that it was read from; what is written is always this reader's"""

    @property
    def encoder(self) -> Graph:
        """The pruned graph."""
        return self.graphs[ENCODER]

    @property
    def halves(self) -> bool:
        """Whether the pruned graph is there as two as well, `encode` and `select`."""
        return {ENCODE, SELECT} <= self.graphs.keys()

    @property
    def computes(self) -> str:
        """The float that is rounded to where nothing is quantised: what parity's own roundings are of."""
        return self.precision if self.quantised is None else self.outputs[KINDS[self.kind][0]].dtype

    @property
    def bounds(self) -> Mapping[str, Any] | None:
        """What parity judges a quantised graph by; None of a float graph, every decision of which is judged."""
        return None if self.quantised is None else self.quantised["bounds"]

    def disabled(self, device: str) -> tuple[str, ...]:
        """ONNX Runtime's optimizers that must not run on a device before its own form of the graph is found."""
        session = {} if self.quantised is None else self.quantised.get("session", {})
        return tuple(session.get(device, {}).get("disable", ()))

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Those of the pruned graph."""
        return self.encoder.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Those of the pruned graph."""
        return self.encoder.outputs

    @property
    def baselines(self) -> dict[str, str]:
        """Name, without `baseline.` -> file of what the encoder is measured against."""
        return {name.removeprefix(BASELINE): g.file for name, g in self.graphs.items() if name.startswith(BASELINE)}

    @property
    def budget(self) -> str:
        """What is kept of what, in words: of an image, or of all tiles of one, or frames of one pool."""
        keep, every, how = self.keep, self.patches, ""
        if self.tiled or self.pooled:
            what = f"{self.tiles} {'tiles' if self.tiled else 'frames'}"
            how = f", one pool of {what}" if self.pooled else f", {keep} of each of {what}"
            keep, every = keep if self.pooled else keep * self.tiles, every * self.tiles
        return f"{keep} of {every} tokens ({keep / max(every, 1):.0%}){how}"

    @property
    def tiled(self) -> bool:
        """Whether the images of a run are tiles of one."""
        return "tiles" in self.preprocessing and self.tiles > 1

    @property
    def kind(self) -> str:
        """What it gives, of KINDS; tokens where it gives nothing of them."""
        return next((kind for kind, names in KINDS.items() if set(names) <= set(self.outputs)), "tokens")

    @property
    def pooled(self) -> bool:
        """Whether these tiles, or frames, are one pool of candidates."""
        return self.tiles > 1 and "tokens" in self.outputs and self.outputs["tokens"].shape[:1] == (1,)

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def dynamic_batch(self) -> bool:
        return any(isinstance(size, str) for tensor in self.inputs.values() for size in tensor.shape)


def words(made: Any) -> str:
    """What stands alone of an object of a manifest, name=value; of several numbers the first and the last.

    >>> words({"kind": "affine", "residual": [0.4, 0.2], "bias": True, "fits": {"keep": 32}})
    'kind=affine, residual=0.4 to 0.2, bias=true'
    """
    given = made.items() if isinstance(made, Mapping) else ()
    options = []
    for name, one in given:
        if isinstance(one, (bool, int, float, str)):
            options.append(f"{name}={str(one).lower() if isinstance(one, bool) else one}")
        elif isinstance(one, (list, tuple)) and one and all(type(part) in (int, float) for part in one):
            options.append(f"{name}={one[0]} to {one[-1]}")
    return ", ".join(options)

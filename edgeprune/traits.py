"""What a method can, needs and spends: declared once at its class, and read from there with torch and without.

`edgeprune.catalog` evaluates the call of `Traits` in a method's file without importing the file, so that each value but
the deviations is a literal. Everything that follows from what a method reads is computed here, not said again.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CLS",
    "DETECTS",
    "FEATURES",
    "MLP",
    "OURS",
    "READS",
    "SCORES",
    "SHORTER",
    "WEIGHTING",
    "WRITTEN_FROM",
    "Traits",
    "source_said",
]

CLS, MLP, SHORTER, DETECTS = "[CLS]", "two-layer projector", "variable sequence length", "detection tokens"
FEATURES = (CLS, MLP, SHORTER, DETECTS)
"""what some encoders have and, but for detection tokens, some methods need; the third: layers that go on with fewer
tokens than there were in front of them"""

_CLS_ATTENTION, _PROJECTED, _PROJECTOR = "[CLS] attention", "projected features", "projector weights"
_BY_QUERY = "attention map, query by query"
_LANGUAGE = "keys of the language model"
_BRANCH = "branch of the attention"
READS = (
    "image or early hidden states",
    _CLS_ATTENTION,
    "attention map",
    "attention maps of two layers",
    "attention map of an early layer",
    _BY_QUERY,
    "keys",
    _BRANCH,
    "features",
    _PROJECTED,
    _PROJECTOR,
    _LANGUAGE,
)
"""what of the encoder a method may read; of the last layer where no other is named"""

OURS = "ours"
WRITTEN_FROM = ("official code", "paper", "third-party note", OURS)
"""what a method or a reducer can be written from; the first with ` at OWNER/REPOSITORY@COMMIT` behind it"""

SCORES = ("auto", "cls", "column", "keys", "flowcut")
"""what a reducer with the option `score` takes beside methods that rank (`edgeprune.pruners.inside._scores`)"""

WEIGHTING = {"position": "none", "padding": "none"}
"""options of every method that ranks by attention, with their defaults (`edgeprune.weighting`)"""


def source_said(name: str, written_from: str) -> str:
    """What it was written from, as the manifest has it.

    >>> source_said("pool", "ours")
    "pool is ours, not a paper's"
    """
    return f"{name} is ours, not a paper's" if written_from == OURS else f"{name} is written from: {written_from}"


@dataclass(frozen=True)
class Traits:
    """Raises ValueError when it reads what is none of READS."""

    reads: tuple[str, ...] = ()
    """which of READS; empty: nothing but the size of the grid, so that it can drop tokens in front of everything"""
    multiply_adds: str = "0 M"
    """of the selection itself, in millions, for one image of CLIP ViT-L/14 at 64 of 576 tokens"""
    query_rows: int | None = 0
    """rows of the last layer's queries that its score needs beside the kept ones, q of the cost formula; None: all"""
    early: bool = True
    """whether it knows its rows before the last layer's queries, so that the selection moves up to them"""
    pools_tiles: bool = False
    """whether the tiles of one image are one pool of candidates"""
    pools_frames: bool = False
    """whether the frames of one video are, too"""
    trained_by: str = ""
    """of one that has trained weights, and is made by `fitted`: the command that makes them"""
    inside: bool = False
    """whether it drops tokens inside the encoder; `steps` says where"""
    official_in_onnx: bool = True
    """whether ONNX has what its official form is made of, so that this can be measured as it is written"""
    whole_grid: bool = False
    """whether each patch must be in its place, so that it cannot choose of rows that a step inside the encoder left"""
    ranks: bool = False
    """whether the score of each patch hangs on no budget and no choice, however many there are, so that a reducer can
    rank by it as well"""
    masks: bool = False
    """whether it picks one patch after the other of all there are, so that some may be barred until no other is left"""
    keeps_all: bool = False
    """whether its budget is every patch there is"""
    emits: tuple[str, ...] = ("picks",)
    """which of picks, origin, order and worth the graph hands out"""
    nested: bool = False
    """whether a smaller budget keeps the first of `picks`"""
    asks: bool = False
    """whether it chooses by a question, which the graph is given beside the image (`Method.ports` says as what)"""
    calibrates: tuple[tuple[str, str], ...] = ()
    """options that are averages over images where they are 0, each with the quantity that its reference gives for it"""
    deviations: tuple[str, ...] = ()
    """where the static form departs from the official code"""
    on_tiles: tuple[str, ...] = ()
    """and where it does so on the tiles of one image alone"""

    def __post_init__(self) -> None:
        if unknown := [one for one in self.reads if one not in READS]:
            raise ValueError(f"a method reads one of {', '.join(READS)}; got {unknown[0]!r}")

    @property
    def needs_scorer(self) -> bool:
        """Whether it has trained weights."""
        return bool(self.trained_by)

    @property
    def behind_steps(self) -> bool:
        """Whether it can choose of the rows that steps inside the encoder left, or takes all of them."""
        chooses = bool(self.reads) and not self.whole_grid and not self.inside and self.emits == ("picks",)
        return chooses or self.keeps_all

    @property
    def attends(self) -> bool:
        """Whether it ranks by attention that is taken times a weight for each position, where it is asked for."""
        return any("attention" in one and one not in (_BY_QUERY, _BRANCH) for one in self.reads)

    @property
    def needs_cls(self) -> bool:
        return _CLS_ATTENTION in self.reads

    @property
    def needs_mlp(self) -> bool:
        """Whether it reads the weights of a projector of two linear layers and nothing else that has any."""
        return _PROJECTOR in self.reads

    @property
    def projects_all(self) -> bool:
        """Whether it reads projected features, so that all N are projected."""
        return _PROJECTED in self.reads

    @property
    def reads_language(self) -> bool:
        """Whether it reads what the first layer of a language model makes of projected features."""
        return _LANGUAGE in self.reads

    @property
    def reads_branch(self) -> bool:
        """Whether it reads what the attention of the last layer adds to the features."""
        return _BRANCH in self.reads

    @property
    def under_head(self) -> bool:
        """Whether it can drop tokens where a head reads the encoder: inside, or anywhere since it reads nothing."""
        return self.inside or not self.reads

    @property
    def needs(self) -> tuple[str, ...]:
        """Which of FEATURES the encoder must have."""
        needed = {CLS: self.needs_cls, MLP: self.needs_mlp, SHORTER: self.inside}
        return tuple(feature for feature, is_needed in needed.items() if is_needed)

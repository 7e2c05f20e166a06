"""What methods and encoders there are, and which goes with which, read from the heads of their files: no torch.

A method has lines that begin with Reads, Cost, Needs, Paper and Source; an encoder declares HAS, a literal, for
each kind of tower. What a method needs and an encoder does not have is why it is refused there. One that has detection
tokens detects inside, and refuses what drops tokens behind it. The code that refuses is `edgeprune.fit`,
and tests hold both together.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeprune.errors import MethodError, ModelError, RequestError, unknown_name

__all__ = [
    "Entry",
    "Family",
    "check_layer",
    "check_model_type",
    "families",
    "feature_depth",
    "methods",
    "option_value",
    "refusal",
]

ANY_LENGTH, DETECTS = "layers of any length", "detection tokens"
FEATURES = ("[CLS]", "two-layer projector", ANY_LENGTH, DETECTS)
"""what some encoders have and, but for detection tokens, some methods need"""


@dataclass(frozen=True)
class Entry:
    name: str
    does: str
    """the first sentence of the file, without the name"""
    reads: str
    """what of the encoder it reads"""
    needs: str
    """what the encoder must have; empty when any will do"""
    training_free: bool
    multiply_adds: str
    """of the selection itself for one image, at N = 576 and K = 64 on CLIP ViT-L/14"""
    paper: str
    options: Mapping[str, str] = field(default_factory=dict)
    """its own, by name: int, float or str, as the field is annotated"""

    @property
    def inside(self) -> bool:
        """Whether it can drop tokens inside an encoder: it does, or reads nothing that would have to be there first."""
        return ANY_LENGTH in self.needs or self.reads == "nothing"


@dataclass(frozen=True)
class Family:
    name: str
    tower: str
    """the kind of tower, where the family has several"""
    has: tuple[str, ...]
    """which of FEATURES"""


def methods() -> list[Entry]:
    """Every file in edgeprune/pruners, by name."""
    return [
        replace(_entry(path.stem, ast.get_docstring(tree) or ""), options=_options(tree))
        for path, tree in _sources("pruners")
    ]


def families() -> list[Family]:
    """Every file in edgeprune/encoders, by name, once for each kind of tower."""
    return [
        Family(path.stem, tower, has)
        for path, tree in _sources("encoders")
        for tower, has in literal(tree, "HAS", path.name).items()
    ]


def refusal(method: Entry, family: Family) -> str:
    """Why the method is refused on the family; empty when it works."""
    if DETECTS in family.has and not method.inside:
        return "tokens dropped behind the encoder"
    missing = [one for one in FEATURES if one in method.needs and one not in family.has]
    return f"no {missing[0]}" if missing else ""


def check_model_type(model_type: str, id: str) -> None:
    """Raises ModelError when no family loads the `model_type` of a config.json; id: of the checkpoint."""
    known: list[str] = []
    for path, tree in _sources("encoders"):
        own = literal(tree, "MODEL_TYPES", path.name)
        for why, refused in literal(tree, "REFUSED", path.name, {}).items():
            if model_type in refused:
                raise ModelError(f"{id} is a {model_type}: {why}; have {', '.join(own)}")
        known += own
    if model_type not in known:
        raise ModelError(
            f"{id} has a model_type that no family knows: {unknown_name('model_type', model_type, known)} "
            "A new family is one file in edgeprune/encoders with MODEL_TYPES and load"
        )


def feature_depth(layer: int, layers: int, least: int = 1) -> int:
    """hidden_states index, negative or not -> number of layers in front of it, at least as many as said.

    >>> feature_depth(-2, 24), feature_depth(23, 24)
    (23, 23)
    """
    depth = layer if layer >= 0 else layers + 1 + layer
    if not least <= depth <= layers:
        first = least - layers - 1
        raise ModelError(f"layer must be in {least}..{layers} or {first}..-1 for {layers} layers, got {layer}")
    return depth


def check_layer(layer: int, config: Mapping[str, Any], id: str) -> None:
    """Whether --layer fits, as far as config.json tells.

    Raises ModelError when there is no such layer, RequestError when the projector takes several side by side.
    """
    own = config.get("vision_feature_layer")
    if isinstance(own, list) and len(own) > 1:
        raise RequestError(
            f"--layer must be left out for {id}: its projector takes {len(own)} layers side by side "
            f"({', '.join(map(str, own))}), --layer {layer} would give one"
        )
    tower = config.get("vision_config", config)
    layers = tower.get("num_hidden_layers", tower.get("depth")) if isinstance(tower, Mapping) else None
    if type(layers) is int and layers > 0:
        feature_depth(layer, layers)


def literal(tree: ast.Module, name: str, file: str, default: Any = None) -> Any:
    """The value of a module's constant, which must be a literal. Raises ValueError where it is none, and where it is
    missing and there is no default.
    """
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                raise ValueError(f"{file} must declare {name} as a literal, got {ast.unparse(node.value)}") from None
    if default is not None:
        return default
    raise ValueError(f"{file} must declare {name} as a literal; it is missing")


def _sources(package: str) -> Iterator[tuple[Path, ast.Module]]:
    folder = Path(str(files("edgeprune"))) / package
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("_"):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def _options(tree: ast.Module) -> dict[str, str]:
    """The fields of its class `Method` that a text can be read into."""
    (method,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Method")
    annotated = {
        node.target.id: ast.unparse(node.annotation).removesuffix(" | None")
        for node in method.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }
    return {name: kind for name, kind in annotated.items() if kind in ("int", "float", "str")}


def _entry(name: str, head: str) -> Entry:
    first = re.split(r"(?<=\.)\s", " ".join(head.partition("\n\n")[0].split()).partition(": ")[2])[0]
    reads, cost, needs, weights, paper = (
        " ".join(_fields(head, field)[:1]) for field in ("Reads", "Cost", "Needs", "Weights", "Paper")
    )
    count = cost.partition(" multiply-adds")[0]
    return Entry(name, first[:1].upper() + first[1:], reads, needs, not weights, count, paper)


def _fields(head: str, name: str) -> list[str]:
    """What stands behind the name at the start of a line, with the indented lines that go on with it."""
    paragraphs = re.findall(rf"^{name}[ ]+(.+(?:\n[ ]+.+)*)", head, flags=re.MULTILINE)
    return [" ".join(one.split()) for one in paragraphs]


_KINDS: dict[str, tuple[type[int] | type[float] | type[str], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text"),
}


def option_value(method: str, option: str, text: str, kinds: Mapping[str, str]) -> int | float | str:
    """An option of a method, as the command line has it, in its type; kinds: option -> int, float or str.

    Raises MethodError when there is no such option, or the text is not of that type.
    """
    if option not in kinds:
        raise MethodError(unknown_name(f"option of {method}", option, kinds))
    kind, word = _KINDS[kinds[option]]
    try:
        return kind(text)
    except ValueError:
        raise MethodError(f"option {option} of {method} must be {word}, got {text!r}") from None

"""What methods and encoders there are, and which goes with which, read from their files, not imported: no torch.

A method's class has `traits`, a call of `edgeprune.traits.Traits` with literals, and its file's head says what it does
and which paper it is from. An encoder declares MODEL_TYPES, OPTIONS and HAS, literals, the last for each kind of tower.
What a method needs and an encoder does not have is why it is refused there. One that is read by a head, a detector's or
a classifier's, refuses what drops tokens behind it. The code that refuses is `edgeprune.fit`, and tests hold both
together.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgeprune.errors import MethodError, ModelError, RequestError, unknown_name
from edgeprune.traits import DETECTS, FEATURES, OURS, SCORES, WEIGHTING, Traits

__all__ = [
    "Entry",
    "Family",
    "ReducerEntry",
    "check_layer",
    "check_model_type",
    "check_score",
    "families",
    "feature_depth",
    "methods",
    "option_value",
    "reducers",
    "refusal",
]


@dataclass(frozen=True)
class Entry:
    """A method."""

    name: str
    does: str
    """the first sentence of the file, without the name"""
    paper: str = ""
    written_from: str = OURS
    """as its class has it"""
    traits: Traits = field(default_factory=Traits)
    """without deviations, whose texts may hold other constants"""
    rule: str = "topk"
    """how parity judges its decisions"""
    objective: str = ""
    """of the rule `greedy`"""
    options: Mapping[str, str] = field(default_factory=dict)
    """its own, by name: int, float or str, as the field is annotated"""
    defaults: Mapping[str, str] = field(default_factory=dict)
    """of these, as they stand in the file"""

    @property
    def reads(self) -> str:
        return ", ".join(self.traits.reads) or "nothing"

    @property
    def needs(self) -> str:
        return ", ".join(self.traits.needs)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "does": self.does,
            "reads": list(self.traits.reads),
            "needs": list(self.traits.needs),
            "training_free": not self.traits.needs_scorer,
            "nested": self.traits.nested,
            "rule": self.rule,
            "multiply_adds": self.traits.multiply_adds,
            "written_from": self.written_from,
            "paper": self.paper,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class ReducerEntry:
    """A reducer: what shortens the sequence inside the encoder."""

    name: str
    does: str
    """the first sentence of the file, without the name"""
    paper: str
    options: Mapping[str, str]
    """its own, by name: int, float, str or bool, as the field is annotated"""
    defaults: Mapping[str, str]
    """of these, as they stand in the file"""
    merges: bool = True
    """whether rows become one; else they are dropped"""
    every: int = 0
    """its paper's own schedule, a step behind every so many layers; 0: it has none that is fixed"""
    even: bool = False
    """whether the same number of rows goes at each of them, instead of the same share"""
    frozen: bool = False
    """whether its counts hang on the image, and are taken of some images once"""
    stateful: bool = False
    """whether a step keeps something of a frame for the next one"""
    written_from: str = OURS
    """as its class has it"""

    @property
    def schedule(self) -> str:
        """Of its paper, in words; empty where it has none."""
        if not self.every:
            return ""
        layers = "every layer" if self.every == 1 else f"every {self.every} layers"
        goes = "counts taken of images" if self.frozen else "the same number" if self.even else "the same share"
        return f"{layers}, {goes}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "does": self.does,
            "inside": True,
            "merges": self.merges,
            "schedule": self.schedule,
            "written_from": self.written_from,
            "paper": self.paper,
            "options": dict(self.options),
        }


@dataclass(frozen=True)
class Family:
    """An encoder with one kind of tower."""

    name: str
    tower: str
    """the kind of tower, where the family has several"""
    has: tuple[str, ...]
    """which of FEATURES"""
    does: str = ""
    """the first sentence of the file, without the name"""
    model_types: tuple[str, ...] = ()
    """of config.json"""
    options: tuple[str, ...] = ()
    """of `export`, that are for few families"""

    @property
    def title(self) -> str:
        return f"{self.name} with {self.tower}" if self.tower else self.name

    @property
    def heads(self) -> tuple[bool, ...]:
        """Without its classifier, and with it where it has one."""
        return (False, True) if "head" in self.options else (False,)


@cache
def methods() -> tuple[Entry, ...]:
    """Every file in edgeprune/pruners, by name."""
    return tuple(_entry(path.stem, tree) for path, tree in _sources("pruners"))


@cache
def reducers() -> tuple[ReducerEntry, ...]:
    """Every file in edgeprune/pruners/inside, by name."""
    return tuple(_reducer(path.stem, tree) for path, tree in _sources("pruners/inside"))


@cache
def families() -> tuple[Family, ...]:
    """Every file in edgeprune/encoders, by name, once for each kind of tower."""
    return tuple(
        Family(
            path.stem,
            tower,
            has,
            _sentence(ast.get_docstring(tree) or ""),
            literal(tree, "MODEL_TYPES", path.name),
            literal(tree, "OPTIONS", path.name, ()),
        )
        for path, tree in _sources("encoders")
        for tower, has in literal(tree, "HAS", path.name).items()
    )


def refusal(method: Entry, family: Family, head: bool = False) -> str:
    """Why the method is refused on the family; empty when it works.

    head: with its classifier
    """
    if (head or DETECTS in family.has) and not method.traits.under_head:
        return "tokens dropped behind the encoder"
    missing = [one for one in FEATURES if one in method.traits.needs and one not in family.has]
    return f"no {missing[0]}" if missing else ""


def check_model_type(model_type: str, id: str) -> None:
    """Raises ModelError when no family loads the `model_type` of a config.json; id: of the checkpoint."""
    known: list[str] = []
    for own, reasons in _model_types():
        for why, refused in reasons.items():
            if model_type in refused:
                raise ModelError(f"{id} is a {model_type}: {why}; read is {', '.join(own)}")
        known += own
    if model_type not in known:
        others = Path(str(files("edgeprune"))) / "encoders" / "_refused.py"
        for why, refused in literal(ast.parse(others.read_text(encoding="utf-8")), "REFUSED", others.name).items():
            if model_type in refused:
                raise ModelError(f"{id} is a {model_type}, which is not read: {why}")
        raise ModelError(
            f"{id} has a model_type that no family knows: {unknown_name('model_type', model_type, known)} "
            "A new family is one file in edgeprune/encoders with MODEL_TYPES and load"
        )


@cache
def _model_types() -> tuple[tuple[tuple[str, ...], dict[str, tuple[str, ...]]], ...]:
    """Of each file in edgeprune/encoders, what it reads, and why it refuses what."""
    return tuple(
        (literal(tree, "MODEL_TYPES", path.name), literal(tree, "REFUSED", path.name, {}))
        for path, tree in _sources("encoders")
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


def _yes_or_no(text: str) -> bool:
    """Raises ValueError."""
    return bool(["false", "true"].index(text.lower()))


_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a text"),
    "bool": (_yes_or_no, "true or false"),
}


def _entry(name: str, tree: ast.Module) -> Entry:
    """Raises ValueError where the file has no class `Method`, or its traits are no call with literals."""
    head = ast.get_docstring(tree) or ""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Method"]
    if not classes:
        raise ValueError(f"{name}.py must declare a class Method; it is missing")
    method, traits, fields, rule, source = classes[0], Traits(), {}, ("topk", ""), OURS
    for node in method.body:
        if isinstance(node, ast.FunctionDef) and node.name == "rule":
            rule = _rule(node)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            if node.target.id == "traits":
                traits = _traits(node.value, f"{name}.py")
            elif node.target.id == "written_from":
                source = ast.literal_eval(node.value)
            else:
                fields[node.target.id] = ast.unparse(node.annotation).removesuffix(" | None"), ast.unparse(node.value)
    options = {name: both for name, both in fields.items() if both[0] in _KINDS}
    if traits.attends:
        options |= {name: ("str", repr(default)) for name, default in WEIGHTING.items()}
    kinds, defaults = ({name: both[at] for name, both in options.items()} for at in (0, 1))
    return Entry(name, _sentence(head), _paper(head), source, traits, *rule, kinds, defaults)


def _reducer(name: str, tree: ast.Module) -> ReducerEntry:
    head = ast.get_docstring(tree) or ""
    body = next((node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Reducer"), None)
    if body is None:
        raise ValueError(f"{name}.py must declare a class Reducer; it is missing")
    options = {
        node.target.id: (ast.unparse(node.annotation).removesuffix(" | None"), ast.unparse(node.value))
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
    }
    options = {option: both for option, both in options.items() if both[0] in _KINDS}
    kinds, defaults = ({option: both[at] for option, both in options.items()} for at in (0, 1))
    said: dict[str, Any] = {
        node.target.id: ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None
        if node.target.id in ("merges", "every", "even", "frozen", "written_from")
    }
    said["stateful"] = any(isinstance(node, ast.FunctionDef) and node.name == "state" for node in body)
    return ReducerEntry(name, _sentence(head), _paper(head), kinds, defaults, **said)


def _paper(head: str) -> str:
    link = re.search(r"^Paper +([^\s;,]+)", head, flags=re.MULTILINE)
    return link[1] if link else ""


def _sentence(head: str) -> str:
    """The first one of a file, without the name in front of it."""
    first = re.split(r"(?<=\.)\s", " ".join(head.partition("\n\n")[0].split()).partition(": ")[2])[0]
    return first[:1].upper() + first[1:]


def _traits(call: ast.expr, file: str) -> Traits:
    """What `Traits(...)` says, but for deviations."""
    keywords = call.keywords if isinstance(call, ast.Call) and ast.unparse(call.func) == "Traits" else []
    said = {word.arg or "**": word.value for word in keywords if word.arg not in ("deviations", "on_tiles")}
    try:
        if not keywords:
            raise ValueError(f"got {ast.unparse(call)}")
        return Traits(**{name: ast.literal_eval(value) for name, value in said.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} must have traits = Traits(...) of literals by name: {error}") from None


def _rule(function: ast.FunctionDef) -> tuple[str, str]:
    """The name and the objective in the dictionary that `rule` returns."""
    (given,) = (node for node in ast.walk(function) if isinstance(node, ast.Dict))
    pairs = zip(given.keys, given.values, strict=True)
    said = {key.value: ast.unparse(value).strip("'") for key, value in pairs if isinstance(key, ast.Constant)}
    return said["name"], said.get("objective", "")


def option_value(method: str, option: str, text: str, kinds: Mapping[str, str]) -> int | float | str | bool:
    """An option of a method, as the command line has it, in its type; kinds: option -> int, float, str or bool.

    Raises MethodError when there is no such option, or the text is not of that type.
    """
    if option not in kinds:
        raise MethodError(unknown_name(f"option of {method}", option, kinds))
    kind, word = _KINDS[kinds[option]]
    try:
        value: int | float | str | bool = kind(text)
        return value
    except ValueError:
        raise MethodError(f"option {option} of {method} must be {word}, got {text!r}") from None


def check_score(score: str, ranks: Mapping[str, bool]) -> None:
    """Of a reducer's option `score`: one of SCORES, or a method that ranks.

    ranks: every method, and whether it gives each row a score of its own (`Traits.ranks`)

    Raises MethodError for anything else.
    """
    able = (*SCORES, *(name for name, does in ranks.items() if does))
    if score in able:
        return
    if score not in ranks:
        raise MethodError(unknown_name("score", score, able))
    raise MethodError(
        f"option score must give each row a score of its own, which {score} does not; use {', '.join(able)}"
    )

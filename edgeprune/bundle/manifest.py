"""What a bundle says of itself: `manifest.json`, schema 2.0.

It MUST be a JSON object with the fields of `schema.Fields`, those with a default excepted, and a `digest`: the sha256
of all the rest in canonical form (`digest`). It MAY hold other fields, which are ignored. `schema_version` is
MAJOR.MINOR: a reader refuses a MAJOR that it does not know. Numbers are finite, text can be printed, no name
stands twice in an object.

    graphs       every graph by its name: `encoder`, `baseline.<name>`, each with the shapes and dtypes of its tensors
    precision    what the weights are, whatever goes in and comes out
    steps        [[layers, tokens], ...]: how many tokens are left behind how many layers, where tokens go in between
    layers       [[tokens, multiply-adds, multiply-adds unpruned], ...] of each layer, where there are steps
    nested       whether the first k of `picks` are what --keep k would keep
    rule         how parity judges the decisions: {"name": ..., ...}

Schema 1.x, which had one graph and no digest, is read as well (`older`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from edgeprune import typed
from edgeprune.bundle import agreement, older
from edgeprune.bundle.schema import SCHEMA_VERSION, Fields
from edgeprune.errors import BundleError

__all__ = ["MANIFEST", "Manifest", "digest", "json_text", "parsed"]

MANIFEST = "manifest.json"
DEEPEST = 256
"""arrays and objects in each other, the manifest's own object among them"""


@dataclass(frozen=True)
class Manifest(Fields):
    """A manifest that can be read and written."""

    def to_json(self) -> str:
        """The text of the file, with its digest. Raises BundleError when it would not be read again."""
        given = {**dataclasses.asdict(self), "schema_version": SCHEMA_VERSION}
        text = json_text({**given, "digest": digest(given)})
        self.from_json(text)
        return text

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleError when the text is not a manifest of a version that this reader knows, when it has changed
        since it was written, or when it contradicts itself."""
        given = parsed(text)
        version = given["schema_version"]
        major = version.split(".")[0] if isinstance(version, str) else ""
        if major not in ("1", SCHEMA_VERSION.split(".")[0]):
            raise BundleError(
                f"{MANIFEST} has schema {version!r:.40}, this one reads 1.x and {SCHEMA_VERSION}; upgrade edgeprune"
            )
        try:
            if major != "1" and given.pop("digest", None) != digest(given):
                raise BundleError(f"{MANIFEST} has changed since the export (digest differs); copy the bundle again")
            if _depth(given) > DEEPEST:
                raise RecursionError
            manifest: Manifest = typed.read(cls, older.upgraded(given) if major == "1" else given, typed.JSON)
            agreement.check(manifest)
        except RecursionError:
            raise BundleError(f"{MANIFEST} is nested too deeply; export the bundle again") from None
        except ValueError as error:
            raise BundleError(f"{MANIFEST}: {error}; export the bundle again") from None
        return manifest


def parsed(text: str) -> dict[str, Any]:
    """A manifest's JSON, of whatever kind. Raises BundleError when it is none that any reader reads alike."""
    try:
        given: dict[str, Any] = json.loads(
            text,
            parse_constant=_not_finite,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_each_name_once,
        )
        given["schema_version"]
        json.dumps(given, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(
            f"{MANIFEST} must be a JSON object with a schema_version, finite numbers, whole characters and each "
            "name once; it is not: copy the bundle again"
        ) from None
    return given


def digest(given: Mapping[str, Any]) -> str:
    """The sha256 of a JSON object in canonical form: names sorted, no spaces, ASCII, numbers as Python prints them.

    >>> digest({"b": 1, "a": [0.5]}) == hashlib.sha256(b'{"a":[0.5],"b":1}').hexdigest()
    True
    """
    text = json.dumps(given, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _depth(value: Any) -> int:
    """How deeply arrays and objects stand in each other: 1 for [3]."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, (dict, list))]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _not_finite(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    """JSON has no infinity, and 1e999 would become one."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _whole(text: str) -> int:
    """What another language reads as well."""
    number = int(text)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(text)
    return number


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    given = dict(pairs)
    if len(given) != len(pairs):
        raise ValueError("a name twice")
    return given

"""The C library opens and refuses what Python opens and refuses, in the same words.

What differs, and is left out here: code points that Unicode has not assigned, which Python's release decides about;
numbers and shapes that the library does not hold (it says "in this library"); names of the Hugging Face hub, which it
does not look up.
"""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from edgeprune.bundle import MANIFEST, Manifest, describe_files, load
from edgeprune.bundle.manifest import digest
from edgeprune.errors import BundleError
from tests.brightest import write_bundle
from tests.bundle import conftest as small
from tests.bundle.test_manifest import DISAGREE, MUST, WRONG
from tests.bundle.test_reading import model
from tests.cpp.answers import Ask, asking

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.fixture(scope="module")
def ask(cpp: Path) -> Ask:
    return asking(cpp)


def in_python(folder: Path) -> str:
    try:
        load(folder)
    except BundleError as error:
        return str(error)
    return ""


def held_against_python(ask: Ask, folders: list[Path]) -> list[str]:
    """What both say of each folder, where it is the same."""
    said = [line.decode() for line in ask("open", [os.fsencode(folder) for folder in folders])]
    assert dict(zip(folders, said, strict=True)) == {folder: in_python(folder) for folder in folders}
    return said


def sealed(given: Any) -> str:
    """A manifest with a digest that is right."""
    if isinstance(given, dict) and not str(given.get("schema_version")).startswith("1."):
        given.pop("digest", None)
        given["digest"] = digest(given)
    return json.dumps(given)


def variant(bundle: Path, place: Path, name: str, content: bytes | None) -> Path:
    """The bundle with a file of its own, None for one that is missing; the others are links."""
    place.mkdir()
    for path in bundle.iterdir():
        if path.name != name:
            (place / path.name).symlink_to(path)
    if content is not None:
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    small.write(tmp_path / "out")
    return tmp_path / "out"


# Manifests.


def test_every_refusal_of_a_manifest_is_said_in_the_same_words(folder: Path, ask: Ask, tmp_path: Path) -> None:
    def fresh() -> dict[str, Any]:
        read: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        return read

    manifests = []
    for change in (*WRONG.values(), *DISAGREE.values()):
        manifests.append(fresh())
        change(manifests[-1])
    manifests += [{name: value for name, value in fresh().items() if name != missing} for missing in MUST]
    kinds = {name: hint for name, hint in get_type_hints(Manifest).items() if hint is not Any}
    manifests += [{**fresh(), name: 1.5} for name in kinds]
    manifests += [{**fresh(), name: {"a": 1.5, "\x1b": 0}} for name in kinds]
    manifests += [{**fresh(), "schema_version": version} for version in ("3.0", "x", "", None, 2, "3.0\nand more")]
    manifests += [{**fresh(), "method": text} for text in ("\x1b[2J", "a\nb", "\u202e", "\x9b1m")]
    variants = []
    for at, given in enumerate(manifests):
        variants.append(variant(folder, tmp_path / str(at), MANIFEST, sealed(given).encode()))
    said = held_against_python(ask, variants)
    assert all(said)
    assert len({line.partition(": ")[2] for line in said}) > 70


WORDS = ["", "x", "encoder", "encoder.onnx", "float16", "int32", "batch", "a'b", "a'\"b", "é€😀", "\x1b", "\u202e",
         "\xa0", "\u3000", "2.0", "1.0", "tokens", "..", "/etc/passwd", "a\\b", "c:d", "baseline.pool", "\x7f",
         "x" * 100]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 5, 7, 24, (1 << 31) - 1, 0.5, 1.0, 32.0, -0.0, 1e16, 1e-5, 1e300, 5e-324, 1 / 255]


def anything(dice: random.Random, depth: int = 0) -> Any:
    kind = dice.random()
    if kind < 0.3:
        return dice.choice(WORDS)
    if kind < 0.7 or depth > 2:
        return dice.choice(NUMBERS)
    if kind < 0.8:
        return dice.choice([None, True, False])
    several = range(dice.randrange(4))
    if kind < 0.9:
        return [anything(dice, depth + 1) for _ in several]
    return {dice.choice(WORDS): anything(dice, depth + 1) for _ in several}


def containers(value: Any) -> Iterator[Any]:
    """Every array and object that is not empty."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner:
        yield value
    for one in inner:
        yield from containers(one)


def changed(dice: random.Random, given: Any) -> None:
    """Something put in the place of something else, left out, added, or in another order."""
    place = dice.choice(list(containers(given)))
    key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
    how = dice.random()
    if how < 0.5:
        place[key] = anything(dice)
    elif how < 0.65:
        del place[key]
    elif how < 0.8:
        place[key] = copy.deepcopy(dice.choice(list(containers(given))))
    elif isinstance(place, list):
        place.append(anything(dice))
    else:
        items = list(place.items())
        dice.shuffle(items)
        place.clear()
        place.update(items)
        place[dice.choice(WORDS)] = place.pop(key)


@pytest.mark.slow
def test_manifests_changed_at_random_are_read_or_refused_alike(ask: Ask, tmp_path: Path) -> None:
    dice = random.Random(0)
    bundles = [
        write_bundle(tmp_path / "picks", picks=True),
        write_bundle(tmp_path / "open", batch="batch", dtype="uint8"),
    ]
    bundles.append(GOLDEN / "bundle-0.1")
    variants = []
    for at in range(600):
        bundle = dice.choice(bundles)
        given = json.loads((bundle / MANIFEST).read_text())
        for _ in range(dice.choice([1, 1, 2, 3])):
            changed(dice, given)
        variants.append(variant(bundle, tmp_path / str(at), MANIFEST, sealed(given).encode()))
    said = [line.decode() for line in ask("open", [os.fsencode(one) for one in variants])]
    pairs = [(ours, in_python(one)) for ours, one in zip(said, variants, strict=True) if "in this library" not in ours]
    assert [ours for ours, _ in pairs] == [theirs for _, theirs in pairs]
    assert len(pairs) > 550
    assert len({ours.partition(":")[2] for ours, _ in pairs}) > 200


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"7", b"null", b"{}", b"[" * 100_000, b"\x00", b"{}\x00", b"\xef\xbb\xbf{}", b"\xff\xfe{",
     b'{"schema_version": "2.0", "schema_version": "2.0"}', b'{"schema_version": "2.0", "a": NaN}',
     b'{"schema_version": "2.0", "a": 1e999}', b'{"schema_version": "2.0", "a": 9223372036854775808}',
     b'{"schema_version": "2.0", "a": "\\ud800"}', b'{"schema_version": "2.0", "a": "\xed\xa0\x80"}',
     b'{"schema_version": "2.0", "a": 01}', b'{"schema_version": "2.0", "a": "\\x41"}', b'{"schema_version": "2.0"} x',
     b'{"schema_version": "2.0", "a": ' + b"[" * 200 + b"]" * 200 + b"}"],
    ids=lambda text: repr(text[:50]),
)  # fmt: skip
def test_garbled_manifests_are_refused_in_the_same_words(folder: Path, ask: Ask, text: bytes) -> None:
    (folder / MANIFEST).write_bytes(text)
    assert held_against_python(ask, [folder]) != [""]


def test_what_is_nested_too_deeply_is_refused(folder: Path, ask: Ask) -> None:
    said = []
    for deep in (254, 255, 600):
        given = json.loads((folder / MANIFEST).read_text())
        given["options"]["deep"] = json.loads("[" * deep + "]" * deep)
        (folder / MANIFEST).write_text(sealed(given))
        said += held_against_python(ask, [folder])
    assert said == ["", *[f"{folder}: manifest.json is nested too deeply; export the bundle again"] * 2]


# Files.


def test_every_alteration_of_a_file_is_refused_by_its_name(ask: Ask, tmp_path: Path) -> None:
    """Bytes that turn anywhere, an end that is missing or too long, no file: of each file of a bundle that was made."""
    bundle, dice = write_bundle(tmp_path / "made"), random.Random(0)
    (bundle / "notes.txt").write_bytes(b"notes")
    given = json.loads((bundle / MANIFEST).read_text())
    files = describe_files(bundle)
    given["files"] = {name: {"size": file.size, "sha256": file.sha256} for name, file in files.items()}
    (bundle / MANIFEST).write_text(sealed(given))
    variants: list[Path] = []
    names = []
    for name in [*files, MANIFEST]:
        whole = (bundle / name).read_bytes()
        places = {0, 1, 8, len(whole) - 1, *(dice.randrange(len(whole)) for _ in range(24))} & set(range(len(whole)))
        contents: list[bytes | None] = [None, b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0"]
        for place in sorted(places):
            turned = bytearray(whole)
            turned[place] ^= 1 << dice.randrange(8)
            contents.append(bytes(turned))
        for content in contents:
            variants.append(variant(bundle, tmp_path / str(len(variants)), name, content))
            names.append(name)
    for name, said in zip(names, held_against_python(ask, variants), strict=True):
        assert name in said


@pytest.mark.parametrize("name", ["encoder.onnx", MANIFEST, "more"])
def test_links_to_what_is_hashed_are_followed(folder: Path, ask: Ask, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "blob")
    (folder / name).symlink_to(Path("..", "blob"))
    (tmp_path / "alias").symlink_to(folder)
    assert held_against_python(ask, [folder, tmp_path / "alias"]) == ["", ""]


def broken(folder: Path, name: str, how: str) -> None:
    (folder / name).unlink()
    if how == "pipe":
        os.mkfifo(folder / name)
    elif how == "folder":
        (folder / name).mkdir()
    elif how != "missing":
        (folder / name).symlink_to(name if how == "itself" else how)


@pytest.mark.parametrize("how", ["missing", "pipe", "folder", "itself", "/dev/zero", "/dev/null", "nowhere"])
@pytest.mark.parametrize("name", ["encoder.onnx", MANIFEST])
def test_what_is_no_file_is_refused(folder: Path, ask: Ask, name: str, how: str) -> None:
    broken(folder, name, how)
    assert held_against_python(ask, [folder]) != [""]


def test_a_manifest_that_is_far_too_long_is_not_read_to_its_end(folder: Path, ask: Ask) -> None:
    with (folder / MANIFEST).open("r+b") as file:
        file.truncate(1 << 40)  # of which the disk holds nothing
    assert "is longer than 16 MiB" in held_against_python(ask, [folder])[0]


NAMES = ["/etc/passwd", "../out/encoder.onnx", "more/../../x", "..", "more\\notes.txt", "C:x", "//host/share", "", ".",
         "more", "x" * 300, "encoder.onnx/x", "more//notes.txt", "./encoder.onnx", "é"]  # fmt: skip


def test_names_that_leave_the_folder_or_are_no_file_are_refused(folder: Path, ask: Ask, tmp_path: Path) -> None:
    variants = []
    for at, name in enumerate(NAMES):
        given = json.loads((folder / MANIFEST).read_text())
        given["files"][name] = {"size": 5, "sha256": given["files"]["more/notes.txt"]["sha256"]}
        variants.append(variant(folder, tmp_path / str(at), MANIFEST, sealed(given).encode()))
    said = dict(zip(NAMES, held_against_python(ask, variants), strict=True))
    assert [name for name in NAMES if not said[name]] == ["more//notes.txt"]


@pytest.mark.parametrize(
    "location",
    ["w.data", "../w.data", "/etc/passwd", "more/../w.data", "\x1b[2J", "", "more/notes.txt", "./more/notes.txt"],
)
def test_weights_beside_a_graph_must_be_listed(tmp_path: Path, ask: Ask, location: str) -> None:
    (tmp_path / "out").mkdir()
    small.write(tmp_path / "out", model(location))
    (said,) = held_against_python(ask, [tmp_path / "out"])
    assert (said == "") == location.endswith("notes.txt")


@pytest.mark.slow
def test_graphs_changed_at_random_are_seen_alike(tmp_path: Path, ask: Ask) -> None:
    dice, whole, variants = random.Random(0), model("w.data"), []
    for at in range(300):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        (tmp_path / str(at)).mkdir()
        small.write(tmp_path / str(at), bytes(content))
        variants.append(tmp_path / str(at))
    assert len({said.partition("encoder.onnx")[2] for said in held_against_python(ask, variants)}) > 30


def test_what_has_no_manifest_is_not_a_bundle(folder: Path, ask: Ask, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    places = [
        folder,
        tmp_path / "nowhere",
        folder / "encoder.onnx",
        folder / "more" / "x" / "y",
        tmp_path / ("x" * 300),
    ]
    assert all("is not a bundle: it has no readable manifest.json" in said for said in held_against_python(ask, places))


def test_a_bundle_is_meant_by_a_file_in_it_and_may_have_any_name(folder: Path, ask: Ask, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff \n\xc3\xa9")
    folder.rename(odd)
    assert ask("open", [os.fsencode(odd), os.fsencode(odd / "encoder.onnx")]) == [b"", b""]
    (odd / "encoder.onnx").unlink()
    (said,) = ask("open", [os.fsencode(odd)])
    assert said.decode() == f"{tmp_path}/\\xff \\né: encoder.onnx is missing; copy the whole bundle"


def test_stored_bundles_open(ask: Ask) -> None:
    stored = sorted(path.parent for path in GOLDEN.rglob(MANIFEST))
    assert held_against_python(ask, stored) == [""] * len(stored)

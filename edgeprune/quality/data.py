"""Annotated images on disk: COCO's JSON and VOC's XML, with masks where they are given.

    read_coco(annotations.json, folder of images)
    read_voc(folder of .xml)              Annotations/, JPEGImages/ and SegmentationObject/ are found below it

Annotations are read at once and images when they are asked for, as they lie in the file (an EXIF rotation is not
applied: boxes refer to the stored pixels). What is wrong with single boxes is mended or left out, counted and named;
what makes the set useless is refused. COCO's crowd regions are objects, unless asked otherwise: nothing of a crowd is
detected either once its patches are gone. So are the objects that VOC calls difficult.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeprune.errors import ImageError, MissingPackageError, RequestError
from edgeprune.probes.sample import Sample
from edgeprune.runtime.images.levels import bits_beyond

__all__ = ["Dataset", "Problem", "Samples", "read_coco", "read_voc"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
EDGES = ("xmin", "ymin", "xmax", "ymax")
NAMED = 3
"""how many of the bad ones are named"""
SLACK = 1.0
"""pixels that a box may reach out of its image before it counts as outside: rounding, not a mistake"""

OUTSIDE, EMPTY = "boxes reach out of their image, and were clipped", "boxes are inverted or empty, and were left out"
BEYOND, UNLISTED = "boxes lie outside their image, and were left out", "annotations are of no listed image or category"
UNREADABLE, UNUSED = "segmentations are unreadable, and the box stands in", "classes have no object"


class Samples(Protocol):
    """What is trained on: drawn scenes, or a `Dataset`."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Problem:
    count: int
    first: tuple[str, ...]
    """names of the first few"""


@dataclass(frozen=True)
class _Entry:
    """One image and what is known of it before it is decoded."""

    path: Path
    size: tuple[int, int]
    """(height, width) in pixels that the annotation says"""
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: Callable[[], NDArray[np.bool_]] | None


@dataclass(frozen=True)
class Dataset:
    """Samples by their number, decoded when asked for. `dataset[i]` raises ImageError when image i cannot be read, or
    has another size than its annotation says."""

    classes: tuple[str, ...]
    entries: Sequence[_Entry] = field(repr=False)
    problems: Mapping[str, Problem] = field(default_factory=dict)
    """what is wrong with single annotations -> how many, and which"""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        image = _decoded(entry.path)
        if image.shape[:2] != entry.size:
            (height, width), (own, wide) = entry.size, image.shape[:2]
            raise ImageError(
                f"{entry.path} must have the size of its annotation, {height}x{width}, and has {own}x{wide}: its boxes "
                f"are those of another image; mend or remove it"
            )
        try:
            masks = None if entry.masks is None else entry.masks()
        except (ValueError, OSError) as error:
            raise RequestError(f"the mask of {entry.path.name} is damaged: {error}; mend or remove it") from None
        return Sample(image, entry.boxes, entry.labels, masks, entry.path.name)

    def subset(self, indices: Iterable[int]) -> Dataset:
        """These images of it, in this order."""
        return Dataset(self.classes, [self.entries[index] for index in indices], self.problems)

    def digest(self) -> str:
        """sha256 of the names, boxes and classes: whether two are the same."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        for entry in self.entries:
            digest.update(entry.path.name.encode() + entry.boxes.tobytes() + entry.labels.tobytes())
        return digest.hexdigest()

    def warnings(self) -> list[str]:
        """One line for each kind of problem."""
        return [
            f"{problem.count} {what}: {', '.join(problem.first)}{', ...' if problem.count > len(problem.first) else ''}"
            for what, problem in self.problems.items()
        ]


def read_coco(file: Path, images: Path, crowd: bool = True) -> Dataset:
    """The images of a COCO file of instances. Category ids become 0, 1, 2, ... in their order.

    crowd: whether regions marked iscrowd are objects, or left out
    Raises RequestError when the file is no such file, when images are missing, or there is no object at all;
    MissingPackageError when segmentations are given and pycocotools is not installed.
    """
    content = _coco_json(file)
    notes = _Notes()
    try:
        named = {one["id"]: str(one["name"]) for one in sorted(content["categories"], key=lambda one: int(one["id"]))}
        listed = {one["id"]: one for one in content["images"]}
        rows: dict[Any, list[dict[str, Any]]] = {name: [] for name in listed}
        for one in content["annotations"]:
            if one["image_id"] not in listed or one["category_id"] not in named:
                notes.add(UNLISTED, f"annotation {one.get('id', '?')}")
            elif crowd or not one.get("iscrowd"):
                rows[one["image_id"]].append(one)
        _check_images(images, [str(one["file_name"]) for one in listed.values()], f"--coco {file}")
        numbers = {number: at for at, number in enumerate(named)}
        entries = [_coco_entry(one, rows[name], images, numbers, notes) for name, one in listed.items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"an entry lacks {error}" if isinstance(error, KeyError) else str(error)
        raise RequestError(f"--coco must be COCO's JSON of instances; {file} is not: {reason}") from None
    if any(entry.masks for entry in entries):
        _pycocotools()  # now, and not when the first image is decoded
    return _dataset(tuple(named.values()), entries, notes, str(file))


def read_voc(folder: Path, images: Path | None = None) -> Dataset:
    """The images of a folder of VOC's XML files, or of one that has them in Annotations/. Classes are sorted by name.

    images: their folder; default JPEGImages/ beside Annotations/, else where the XML files are
    Raises RequestError when there is no such file, one is not VOC's, images are missing, or there is no object at all.
    """
    inside = folder / "Annotations"
    paths = sorted((inside if inside.is_dir() else folder).glob("*.xml"))
    if not paths:
        raise RequestError(f"--voc must be a folder with .xml files, or with Annotations/ in it; {folder} has none")
    if images is None:
        images = folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else paths[0].parent
    read = [_voc_xml(path, images) for path in paths]
    _check_images(images, [path.name for _, path, _ in read], f"--voc {folder}")
    named = tuple(sorted({name for _, _, objects in read for name, _ in objects}))
    numbers, notes, entries = {name: at for at, name in enumerate(named)}, _Notes(), []
    for path, (size, image, objects) in zip(paths, read, strict=True):
        size = size or _size_of(image)
        kept, boxes = _cleaned([box for _, box in objects], size, image.name, notes)
        png = folder / "SegmentationObject" / f"{path.stem}.png"
        masks = partial(_voc_masks, png, [at + 1 for at in kept], size) if kept and png.is_file() else None
        labels = np.array([numbers[objects[at][0]] for at in kept], np.int64)
        entries.append(_Entry(image, size, boxes, labels, masks))
    return _dataset(named, entries, notes, str(folder))


class _Notes:
    """Collects problems."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}

    def add(self, what: str, name: str) -> None:
        self.names.setdefault(what, []).append(name)


def _dataset(classes: tuple[str, ...], entries: Sequence[_Entry], notes: _Notes, source: str) -> Dataset:
    if not classes:
        raise RequestError(f"{source} must name the classes of its objects, and names none")
    used = {label for entry in entries for label in entry.labels.tolist()}
    if not used:
        raise RequestError(f"{source} must have objects, and has no usable box on its {len(entries)} images")
    for at, name in enumerate(classes):
        if at not in used:
            notes.add(UNUSED, name)
    problems = {what: Problem(len(all_), tuple(dict.fromkeys(all_))[:NAMED]) for what, all_ in notes.names.items()}
    return Dataset(classes, entries, problems)


def _cleaned(
    given: Sequence[Sequence[float]], size: tuple[int, int], name: str, notes: _Notes
) -> tuple[list[int], NDArray[np.float32]]:
    """Which of the boxes (x0, y0, x1, y1) remain, and these, clipped to the image, [M, 4]."""
    height, width = size
    kept, boxes = [], []
    for at, (x0, y0, x1, y1) in enumerate(given):
        if not all(map(math.isfinite, (x0, y0, x1, y1))) or x1 <= x0 or y1 <= y0:
            notes.add(EMPTY, name)
            continue
        clipped = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            notes.add(BEYOND, name)
            continue
        if max(-x0, -y0, x1 - width, y1 - height) > SLACK:
            notes.add(OUTSIDE, name)
        kept.append(at)
        boxes.append(clipped)
    return kept, np.array(boxes, np.float32).reshape(-1, 4)


def _check_images(folder: Path, names: Sequence[str], source: str) -> None:
    """Raises RequestError when one of them is not there."""
    if not names:
        raise RequestError(f"{source} must list images, and lists none")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise RequestError(
            f"--images must hold the images of {source}; {len(missing)} of {len(names)} are missing from {folder}, "
            f"the first is {missing[0]}; give the folder that has them, or take them out of the annotations"
        )


def _decoded(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            if beyond := bits_beyond(image):
                raise ImageError(f"{path} must have 8-bit values, it has {beyond}; scale it, or take it out")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ImageError(f"{path} must be an image that Pillow reads: {reason}; replace or remove it") from None


def _size_of(path: Path) -> tuple[int, int]:
    """(height, width), from the image's head; where VOC's XML says none, or 0."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} must be an image that Pillow reads: {error}; replace or remove it") from None


def _coco_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"--coco must be a file, got {file}: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(f"--coco must be COCO's JSON of instances; {file} is no JSON: {error}") from None
    parts = ("images", "annotations", "categories")
    lacks = [name for name in parts if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if lacks:
        hint = ": it is a list, as results of a detector are" if isinstance(content, list) else ""
        raise RequestError(
            f"--coco must be COCO's JSON of instances, an object with lists {', '.join(parts)}; {file} lacks "
            f"{', '.join(lacks)}{hint}"
        )
    return dict(content)


def _coco_entry(
    image: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], folder: Path, numbers: Mapping[Any, int], notes: _Notes
) -> _Entry:
    name, size = str(image["file_name"]), (int(image["height"]), int(image["width"]))
    edges = []
    for row in rows:
        x, y, width, height = map(float, row["bbox"])
        edges.append((x, y, x + width, y + height))
    kept, boxes = _cleaned(edges, size, name, notes)
    labels = np.array([numbers[rows[at]["category_id"]] for at in kept], np.int64)
    regions = [_region(rows[at].get("segmentation"), size, name, notes) for at in kept]
    masks = partial(_coco_masks, regions, boxes, size) if any(regions) else None
    return _Entry(folder / name, size, boxes, labels, masks)


def _region(given: Any, size: tuple[int, int], name: str, notes: _Notes) -> Any:
    """A segmentation as pycocotools takes it, polygons of 3 points or more, or run lengths of this size; or None."""
    if not given:
        return None
    if isinstance(given, list):
        polygons = [one for one in given if isinstance(one, list) and len(one) >= 6 and len(one) % 2 == 0]
        if polygons:
            return polygons
    elif isinstance(given, dict) and list(given.get("size", ())) == list(size):
        counts = given.get("counts")
        if isinstance(counts, str) or (isinstance(counts, list) and sum(counts) == math.prod(size)):
            return given
    notes.add(UNREADABLE, name)
    return None


def _coco_masks(regions: Sequence[Any], boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[M, H, W]; an object without a segmentation is the pixels that its box touches."""
    coco, masks = _pycocotools(), np.zeros((len(regions), *size), bool)
    for mask, region, (x0, y0, x1, y1) in zip(masks, regions, boxes.tolist(), strict=True):
        if region is None:
            mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = True
            continue
        raw = isinstance(region, list) or isinstance(region["counts"], list)
        packed = coco.frPyObjects(region, *size) if raw else region
        decoded = coco.decode([coco.merge(packed)] if isinstance(packed, list) else [packed])[:, :, 0]
        if decoded.max() > 1:  # what pycocotools leaves where the runs end too early
            raise ValueError("its run lengths do not fill the image")
        mask[:] = decoded
    return masks


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError:
        raise MissingPackageError("pycocotools", "bavit") from None
    return mask


def _voc_xml(path: Path, images: Path) -> tuple[tuple[int, int] | None, Path, list[tuple[str, list[float]]]]:
    """(height, width) where it says so, the image, and the name and edges of each object, in pixels from 0."""
    try:
        root = ElementTree.parse(path).getroot()
        if root.tag != "annotation":
            raise ValueError(f"its root is <{root.tag}>, not <annotation>")
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        objects = []
        for one in root.findall("object"):
            name, edges = (
                one.findtext("name"),
                [one.findtext(f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")],
            )
            if name is None or None in edges:
                raise ValueError("an <object> lacks its <name> or an edge of its <bndbox>")
            x0, y0, x1, y1 = (float(edge or "nan") for edge in edges)
            objects.append((name.strip(), [x0 - 1, y0 - 1, x1, y1]))  # VOC counts pixels from 1, both ends included
    except (ElementTree.ParseError, ValueError, OSError) as error:
        raise RequestError(f"--voc must hold VOC's XML files; {path} is none: {error}; mend or remove it") from None
    given = Path((root.findtext("filename") or "").strip()).name
    names = [name for name in (given, *(path.stem + suffix for suffix in SUFFIXES)) if name]
    image = next((images / name for name in names if (images / name).is_file()), images / names[0])
    return ((height, width) if height > 0 and width > 0 else None), image, objects


def _voc_masks(png: Path, numbers: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[M, H, W] of the objects with these numbers; the palette index of a pixel is the number of its object."""
    with Image.open(png) as image:
        indices = np.asarray(image)
    if indices.shape != size:
        raise ValueError(f"{png} must have a palette and the size {size[0]}x{size[1]}")
    return np.stack([indices == number for number in numbers])

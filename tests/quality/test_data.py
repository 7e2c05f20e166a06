"""COCO's JSON and VOC's XML: what is read, what is mended and counted, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgeprune.errors import ImageError, RequestError
from edgeprune.quality import data
from edgeprune.quality.data import Dataset, read_coco, read_voc

WIDTH, HEIGHT = 40, 30
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
"""a polygon: columns and rows 10..19"""


def draw(folder: Path, *names: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for at, name in enumerate(names):
        Image.new("RGB", size, (at, 50, 100)).save(folder / name)
    return folder


def coco(*annotations: dict[str, Any], images: int = 1, **replaced: Any) -> dict[str, Any]:
    """Category ids 3 and 7, as in COCO, where ids have gaps."""
    return {
        "images": [{"id": 10 + at, "file_name": f"{at}.png", "width": WIDTH, "height": HEIGHT} for at in range(images)],
        "annotations": [{"id": at, "image_id": 10, "category_id": 7, **one} for at, one in enumerate(annotations)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        **replaced,
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Dataset]:
    def read(content: Any, images: int = 1, **options: Any) -> Dataset:
        draw(tmp_path / "images", *(f"{at}.png" for at in range(images)))
        file = tmp_path / "instances.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_coco(file, tmp_path / "images", **options)

    return read


def voc_object(name: str = "dog", box: tuple[Any, ...] = (11, 11, 20, 20)) -> str:
    edges = "".join(f"<{edge}>{value}</{edge}>" for edge, value in zip(data.EDGES, box, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"  # VOC has these; they are no objects
    return f"<object><name>{name}</name><difficult>1</difficult><bndbox>{edges}</bndbox>{part}</object>"


def voc(folder: Path, name: str, *objects: str, size: tuple[int, int] | None = (WIDTH, HEIGHT)) -> None:
    sides = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    text = f"<annotation><filename>{name}.png</filename>{sides}{''.join(objects)}</annotation>"
    (folder / "Annotations" / f"{name}.xml").write_text(text)
    draw(folder / "JPEGImages", f"{name}.png")


def test_boxes_of_coco_become_edges_and_category_ids_labels_in_their_order(read: Callable[..., Dataset]) -> None:
    found = read(coco({"bbox": [1, 2, 10, 20]}, {"bbox": [5, 5, 5.5, 5], "category_id": 3}))
    assert found.classes == ("cat", "dog")
    sample = found[0]
    assert sample.boxes.tolist() == [[1, 2, 11, 22], [5, 5, 10.5, 10]]
    assert sample.labels.tolist() == [1, 0]
    assert (sample.image.shape, sample.masks, sample.name) == ((HEIGHT, WIDTH, 3), None, "0.png")


def test_polygons_and_both_kinds_of_run_lengths_become_masks(read: Callable[..., Dataset]) -> None:
    from pycocotools import mask as tools

    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:20, 10:20] = True
    packed = tools.encode(np.asfortranarray(expected.astype(np.uint8)))
    runs = [10 * HEIGHT + 10, *([10, HEIGHT - 10] * 10)]
    runs[-1] += (WIDTH - 20) * HEIGHT - 10
    given = [
        [SQUARE],
        {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()},
        {"size": [HEIGHT, WIDTH], "counts": runs},
    ]
    masks = read(coco(*({"bbox": [10, 10, 10, 10], "segmentation": one} for one in given)))[0].masks
    assert masks is not None
    assert all((mask == expected).all() for mask in masks)


def test_an_object_without_a_mask_beside_one_with_is_its_box(read: Callable[..., Dataset]) -> None:
    square = {"bbox": [10, 10, 10, 10], "segmentation": [SQUARE]}
    masks = read(coco(square, {"bbox": [1.5, 2, 3, 4], "segmentation": []}))[0].masks
    assert masks is not None
    assert np.argwhere(masks[1])[[0, -1]].tolist() == [[2, 1], [5, 4]]


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 3, 4]], {"size": [9, 9], "counts": [81]}, {"size": [HEIGHT, WIDTH], "counts": [5]}],
    ids=["two points", "other size", "runs that do not fill it"],
)
def test_an_unreadable_segmentation_is_counted_and_the_box_stands_in(
    read: Callable[..., Dataset], segmentation: Any
) -> None:
    square = {"bbox": [10, 10, 10, 10], "segmentation": [SQUARE]}
    found = read(coco(square, {"bbox": [0, 0, 2, 2], "segmentation": segmentation}))
    masks = found[0].masks
    assert masks is not None
    assert masks[1].sum() == 4
    assert "1 segmentations are unreadable, and the box stands in: 0.png" in found.warnings()


def test_damaged_run_lengths_are_one_line(read: Callable[..., Dataset]) -> None:
    region = {"size": [HEIGHT, WIDTH], "counts": "abc"}
    found = read(coco({"bbox": [10, 10, 10, 10], "segmentation": region}))
    with pytest.raises(RequestError, match=r"the mask of 0\.png is damaged"):
        found[0]


def test_crowds_are_objects_unless_asked_otherwise(read: Callable[..., Dataset]) -> None:
    content = coco({"bbox": [0, 0, 9, 9], "iscrowd": 1}, {"bbox": [1, 1, 5, 5]})
    assert len(read(content)[0].boxes) == 2
    assert len(read(content, crowd=False)[0].boxes) == 1


def test_bad_boxes_are_mended_or_left_out_and_counted_and_named(read: Callable[..., Dataset]) -> None:
    boxes = [
        *([-5, 0, 20, 10], [30, 20, 30, 30]),  # reach out: clipped
        [39.5, 0, 1.2, 5],  # by less than a pixel: rounding
        *([5, 5, -3, 4], [5, 5, 0, 4], [float("nan"), 0, 1, 1]),  # inverted, empty, not a number
        [50, 0, 10, 10],  # beyond
    ]
    content = coco(*({"bbox": box} for box in boxes), {"bbox": [0, 0, 1, 1], "image_id": 99}, {"bbox": [0, 0, 1, 1]})
    found = read(content)
    assert found[0].boxes.tolist()[:2] == [[0, 0, 15, 10], [30, 20, WIDTH, HEIGHT]]
    assert found[0].boxes[2].tolist() == [39.5, 0, WIDTH, 5]
    assert len(found[0].boxes) == 4
    assert {what: problem.count for what, problem in found.problems.items()} == {
        "boxes reach out of their image, and were clipped": 2,
        "boxes are inverted or empty, and were left out": 3,
        "boxes lie outside their image, and were left out": 1,
        "annotations are of no listed image or category": 1,
        "classes have no object": 1,
    }
    assert found.problems["boxes are inverted or empty, and were left out"].first == ("0.png",)
    assert "1 classes have no object: cat" in found.warnings()


def test_an_image_without_objects_stays(read: Callable[..., Dataset]) -> None:
    found = read(coco({"bbox": [0, 0, 5, 5]}, images=2), images=2)
    assert [len(found[at].boxes) for at in range(2)] == [1, 0]


def test_a_subset_has_the_same_classes_and_another_digest(read: Callable[..., Dataset]) -> None:
    found = read(coco({"bbox": [0, 0, 5, 5]}, images=3), images=3)
    part = found.subset([2, 0])
    assert [part[at].name for at in range(len(part))] == ["2.png", "0.png"]
    assert part.classes == found.classes
    assert part.digest() != found.digest() == read(coco({"bbox": [0, 0, 5, 5]}, images=3), images=3).digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"--coco must be COCO's JSON of instances; .*instances\.json is no JSON"),
        ("[]", r"lacks images, annotations, categories: it is a list, as results of a detector are"),
        ({"images": [], "annotations": []}, r"lacks categories$"),
        (coco({"bbox": [1, 2, 3]}), r"is not: not enough values"),
        (coco({}), r"is not: an entry lacks 'bbox'"),
        (coco({"bbox": [0, 0, 1, 1]}, images=4), r"3 of 4 are missing from .*images, the first is 1\.png; give the"),
        (coco(), r"must have objects, and has no usable box on its 1 images"),
        (coco({"bbox": [0, 0, 0, 0]}), r"must have objects, and has no usable box"),
        (coco(categories=[]), r"must name the classes of its objects, and names none"),
        (coco(images=0), r"must list images, and lists none"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_a_file_that_is_not_cocos_is_refused(read: Callable[..., Dataset], content: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(content)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--coco must be a file, got .*absent\.json: No such file"):
        read_coco(tmp_path / "absent.json", tmp_path)


def test_an_image_that_cannot_be_decoded_is_named(read: Callable[..., Dataset], tmp_path: Path) -> None:
    found = read(coco({"bbox": [0, 0, 5, 5]}))
    whole = (tmp_path / "images" / "0.png").read_bytes()
    for damaged in (b"no image", whole[: len(whole) // 2]):
        (tmp_path / "images" / "0.png").write_bytes(damaged)
        with pytest.raises(ImageError, match=r"0\.png must be an image that Pillow reads: .*; replace or remove it"):
            found[0]


def test_an_image_of_another_size_than_its_annotation_is_refused(read: Callable[..., Dataset], tmp_path: Path) -> None:
    found = read(coco({"bbox": [0, 0, 5, 5]}))
    draw(tmp_path / "images", "0.png", size=(HEIGHT, WIDTH))
    with pytest.raises(ImageError, match=f"size of its annotation, {HEIGHT}x{WIDTH}, and has {WIDTH}x{HEIGHT}"):
        found[0]


def test_voc_counts_pixels_from_one_and_sorts_its_classes(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object("dog"), voc_object("cat", (1, 1, WIDTH, HEIGHT)))
    voc(tmp_path, "b")
    found = read_voc(tmp_path)
    assert found.classes == ("cat", "dog")
    assert found[0].boxes.tolist() == [[10, 10, 20, 20], [0, 0, WIDTH, HEIGHT]]
    assert found[0].labels.tolist() == [1, 0]
    assert len(found[1].boxes) == 0
    assert not found.problems


def test_voc_masks_go_by_the_number_of_the_object_and_skip_dropped_ones(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object(box=(9, 9, 5, 5)), voc_object(box=(11, 11, 20, 20)))
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[0, 0], indices[12:15, 12:15], indices[11, 11] = 1, 2, 255
    palette = Image.fromarray(indices, "L").convert("P")
    palette.putdata(indices.ravel().tolist())
    (tmp_path / "SegmentationObject").mkdir()
    palette.save(tmp_path / "SegmentationObject" / "a.png")
    found = read_voc(tmp_path)
    masks = found[0].masks
    assert masks is not None
    assert (masks == (indices == 2)[None]).all()
    assert list(found.problems) == ["boxes are inverted or empty, and were left out"]


def test_voc_without_a_size_takes_that_of_the_image_and_without_a_name_its_own(tmp_path: Path) -> None:
    voc(tmp_path, "a", voc_object(), size=None)
    file = tmp_path / "Annotations" / "a.xml"
    file.write_text(file.read_text().replace("<filename>a.png</filename>", ""))
    assert read_voc(tmp_path)[0].image.shape == (HEIGHT, WIDTH, 3)


def test_a_flat_folder_of_xml_and_images_is_voc_too(tmp_path: Path) -> None:
    voc(tmp_path / "voc", "a", voc_object())
    (tmp_path / "voc" / "Annotations" / "a.xml").rename(tmp_path / "a.xml")
    draw(tmp_path, "a.png")
    assert read_voc(tmp_path)[0].name == "a.png"
    assert read_voc(tmp_path, tmp_path / "voc" / "JPEGImages")[0].name == "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", r"a\.xml is none: no element found"),
        ("<svg/>", r"a\.xml is none: its root is <svg>, not <annotation>"),
        ("<annotation><object><name>x</name></object></annotation>", r"an <object> lacks its <name> or an edge"),
        (f"<annotation>{voc_object(box=('left', 1, 2, 3))}</annotation>", r"could not convert string to float: 'left'"),
    ],
    ids=["cut off", "other root", "no box", "no number"],
)
def test_an_xml_file_that_is_not_vocs_is_refused(tmp_path: Path, text: str, message: str) -> None:
    voc(tmp_path, "a", voc_object())
    (tmp_path / "Annotations" / "a.xml").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_voc(tmp_path)


def test_a_folder_without_xml_or_without_the_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--voc must be a folder with \.xml files, or with Annotations/ in it"):
        read_voc(tmp_path)
    voc(tmp_path, "a", voc_object())
    (tmp_path / "JPEGImages" / "a.png").unlink()
    with pytest.raises(RequestError, match=r"1 of 1 are missing from .*JPEGImages, the first is a\.png"):
        read_voc(tmp_path)

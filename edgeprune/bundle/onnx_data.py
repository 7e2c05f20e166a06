"""Which files a graph reads its weights from, seen without onnx: a walk through the protobuf of the .onnx alone.

    ModelProto.graph 7, .functions 25        GraphProto.node 1, .initializer 5, .sparse_initializer 15
    NodeProto.attribute 5                    FunctionProto.node 7, .attribute_proto 11
    AttributeProto.t 5, .g 6, .tensors 10, .graphs 11, .sparse_tensor 22, .sparse_tensors 23
    SparseTensorProto.values 1, .indices 2   TensorProto.external_data 13: StringStringEntryProto.key 1, .value 2

Source  https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

__all__ = ["external_files"]

Span: TypeAlias = "tuple[int, int]"

_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""message -> field number -> the message that stands there, as far as the way to external data goes"""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_files(path: Path) -> set[str]:
    """The locations that the tensors of a graph name, as they are written. Raises ValueError when it is no graph."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data, (0, len(data))))


def _locations(data: mmap.mmap, whole: Span) -> Iterator[str]:
    waiting: list[tuple[str, Span]] = [("model", whole)]
    while waiting:  # no recursion: a file may be nested as deeply as it likes
        message, span = waiting.pop()
        inside = _INSIDE[message]
        for number, part in _fields(data, span):
            if (kind := inside.get(number)) == "entry":
                entry = {number: data[begin:end] for number, (begin, end) in _fields(data, part)}
                if entry.get(1) == b"location":
                    yield entry.get(2, b"").decode("utf-8", "backslashreplace")
            elif kind is not None:
                waiting.append((kind, part))


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """(number, where its content lies) of every field of a message that has bytes for content.

    Most numbers are of one byte, which is read here: a graph has thousands of them.
    """
    at, end = span
    while at < end:
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, end)
            continue
        if kind == _BYTES:
            if at < end and (size := data[at]) < 0x80:
                at += 1
            else:
                size, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of wire type {kind} at byte {at}")
        if size > end - at:
            raise ValueError(f"a field that is cut off at byte {at}")
        if kind == _BYTES:
            yield (tag & 0xFFFFFFFF) >> 3, (at, at + size)  # a tag has 32 bits
        at += size


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """(value, where it ends)"""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError(f"a number that is cut off at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError(f"a number that does not end at byte {at}")

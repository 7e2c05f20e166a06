"""edgeprune itself as a wheel, so that a device can install it from the bundle: no package index need have it.

It holds what is imported here, without the embedded models, which only an export reads: pure Python, and the sources of
the C library, which a board builds for itself; 1.3 MB.
The same sources give the same bytes: names are sorted, times fixed.

Format  https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import re
import zipfile
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import edgeprune
from edgeprune.errors import RequestError

__all__ = ["Wheel", "wheel"]

LINKED = ("export", "runtime", "targets")
"""folders that a checkout has beside the package, and an installation in it"""
SUFFIXES = tuple(
    ".c .cmake .cpp .css .h .hpp .html .in .jinja .map .md .mjs .py .sh .toml .txt .typed".split()  # noqa: SIM905
)
LEFT_OUT = {"models", "__pycache__"}
WHEEL = f"Wheel-Version: 1.0\nGenerator: edgeprune {edgeprune.__version__}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
INFO = f"edgeprune-{edgeprune.__version__}.dist-info"
OWN = ("entry_points.txt", "top_level.txt", "licenses/LICENSE")
"""what the metadata of the installation has beside METADATA"""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""the earliest that a zip can say"""


class Wheel(NamedTuple):
    name: str
    """of the file, by which pip knows it"""
    content: bytes


@cache
def wheel() -> Wheel:
    """The wheel of the edgeprune that runs here, installed or from a checkout.

    Raises RequestError when it is imported without being installed: then nothing says what it needs.
    """
    contents = {name: path.read_bytes() for name, path in _sources().items()} | _info()
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in sorted(contents.items())]
    contents[f"{INFO}/RECORD"] = "\n".join([*record, f"{INFO}/RECORD,,\n"]).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(contents, key=lambda name: (name.startswith(INFO), name)):  # the metadata last, as is usual
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(entry, contents[name])
    return Wheel(f"edgeprune-{edgeprune.__version__}-py3-none-any.whl", file.getvalue())


def _sources() -> dict[str, Path]:
    """Name in the wheel -> file; links are not followed, their folders are taken where they are imported from."""
    roots = {
        "edgeprune": edgeprune,
        **{f"edgeprune/{one}": importlib.import_module(f"edgeprune.{one}") for one in LINKED},
    }
    files: dict[str, Path] = {}
    for prefix, package in roots.items():
        folder = Path(package.__path__[0])
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            own = not LEFT_OUT & {*inside.parts} and not (prefix == "edgeprune" and inside.parts[0] in LINKED)
            if own and path.suffix in SUFFIXES and path.is_file():
                files[f"{prefix}/{inside.as_posix()}"] = path
    return files


def _info() -> dict[str, bytes]:
    """What the installation says of itself; an editable one says the version that it had when it was made."""
    try:
        installed = distribution("edgeprune")
    except PackageNotFoundError:
        raise RequestError(
            "the bundle carries edgeprune for the device, which must be installed for that; it is only imported from "
            f"{Path(edgeprune.__file__).parent}: pip install it, or leave it out with --no-runtime"
        ) from None
    said = installed.read_text("METADATA") or installed.read_text("PKG-INFO") or ""  # the latter beside a checkout
    metadata = re.sub(r"(?m)^Version: .*$", f"Version: {edgeprune.__version__}", said, count=1)
    texts = {"METADATA": metadata, "WHEEL": WHEEL, **{name: installed.read_text(name) for name in OWN}}
    return {f"{INFO}/{name}": text.encode() for name, text in texts.items() if text is not None}


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

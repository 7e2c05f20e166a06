"""The part of a bundle's page that is for C: the library is built on the device, from the sources in edgeprune's wheel.

Its block is in `sh`: tests/cpp/test_device_page.py types it, with the headers at hand that it would fetch.
"""

from __future__ import annotations

from edgeprune.export.wheel import Wheel
from edgeprune.targets import Target

__all__ = ["page_c"]

UBUNTU = {"3.8": ("20.04", "9", "3.16"), "3.10": ("22.04", "11", "3.22"), "3.12": ("24.04", "13", "3.28")}
"""Python of a JetPack -> the release that it is, its g++ and its CMake"""

_TEXT = """
### From C

An application in C or C++ needs no Python: it links libedgeprune, and `edgeprune-verify`, `-run` and `-bench` are
programs. They are built here, from the sources in edgeprune's wheel, whose `include/edgeprune.h` is the manual:

```sh
sudo apt install cmake g++ nlohmann-json3-dev libssl-dev
{sources}
bash "$sources/cmake/headers.sh" ~/edgeprune-c/headers
cmake -S "$sources" -B ~/edgeprune-c/build -DEDGEPRUNE_TESTS=OFF{options} \\
    -DEDGEPRUNE_ONNXRUNTIME_INCLUDE="$HOME/edgeprune-c/headers"
cmake --build ~/edgeprune-c/build --parallel 2
{library}~/edgeprune-c/build/tools/edgeprune-verify .{device}
```

{board}`headers.sh` unpacks ONNX Runtime's headers out of the package of a later Ubuntu or Debian, which it takes
through apt from the mirror that is set up; nothing is installed. Any folder with onnxruntime_c_api.h does instead.
{plan}"""
_BOARD = """\
JetPack {jetpack} is Ubuntu {ubuntu}, whose g++ {gcc} and CMake {cmake} are new enough. Apt leaves what is there.
"""
_PLAN = """
`-DEDGEPRUNE_TENSORRT=ON` builds what runs a plan, with the headers of TensorRT and CUDA{jetpack}.
(It has run nowhere yet.)
"""
_CARRIED = """\
python3 -m zipfile -e {wheel} ~/edgeprune-c
sources=~/edgeprune-c/edgeprune/runtime/cpp"""
_COPIED = """\
sources=~/edgeprune-cpp    # copy to there what `edgeprune runtime-source` names where edgeprune is installed"""


def page_c(target: Target, wheel: Wheel | None) -> str:
    """wheel: what the bundle carries of edgeprune; None: its sources come from where it is installed"""
    board, plan = target.jetson, target.engine.kind != "onnxruntime"
    sources, library = 'sources="$(edgeprune runtime-source)"', ""
    if board and board.install is None:
        sources = _CARRIED.format(wheel=wheel.name) if wheel else _COPIED
    elif not plan:
        library = 'export EDGEPRUNE_ONNXRUNTIME="$(edgeprune runtime-source --onnxruntime)"\n'
    text = ""
    if board:
        ubuntu, gcc, cmake = UBUNTU[board.python]
        text = _BOARD.format(jetpack=board.jetpack, ubuntu=ubuntu, gcc=gcc, cmake=cmake)
    return _TEXT.format(
        sources=sources,
        options=" -DEDGEPRUNE_TENSORRT=ON" if plan else "",
        library=library,
        device=" --device tensorrt" if plan else " --device cuda" if target.gpu else "",
        board=text,
        plan=_PLAN.format(jetpack=", which JetPack brings" if board else "") if plan else "",
    )

"""What a bundle's page says of C, for every target: what is installed there, what is built, and what it runs on."""

from __future__ import annotations

import pytest

from edgeprune import targets
from edgeprune.export.page_c import UBUNTU, page_c
from edgeprune.export.wheel import wheel
from tests.pages import blocks, commands


@pytest.mark.parametrize("target", targets.names())
def test_the_library_is_built_from_the_sources_at_hand_for_what_runs_the_bundle(target: str) -> None:
    device = targets.load(target)
    (block,) = blocks(page_c(device, wheel()), "sh")
    lines = commands(block)
    assert lines[0].startswith("sudo apt install cmake g++ nlohmann-json3-dev libssl-dev")
    plan = device.engine.kind != "onnxruntime"
    assert (" -DEDGEPRUNE_TENSORRT=ON" in block) == plan
    assert lines[-1].endswith(" --device tensorrt") == plan
    assert ("EDGEPRUNE_ONNXRUNTIME=" in block) != plan


@pytest.mark.parametrize("target", [name for name in targets.names() if name.startswith("jetson")])
def test_each_jetpack_is_an_ubuntu_whose_tools_are_new_enough(target: str) -> None:
    board = targets.load(target).jetson
    assert board is not None
    ubuntu, gcc, cmake = UBUNTU[board.python]
    text = page_c(targets.load(target), wheel())
    assert f"JetPack {board.jetpack} is Ubuntu {ubuntu}, whose g++ {gcc} and CMake {cmake} are new enough" in text
    assert (int(gcc), [int(one) for one in cmake.split(".")]) >= (9, [3, 16])


def test_only_a_board_whose_python_is_too_old_unpacks_the_wheel() -> None:
    unpacking = [name for name in targets.names() if "zipfile -e" in page_c(targets.load(name), wheel())]
    assert unpacking == ["jetson-orin-jp51"]

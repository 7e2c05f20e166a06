"""The page of a bundle is typed in as it stands, block after block in one shell, in a folder that is fresh.

The board is played: its Python sees numpy, Pillow and other packages of these tests, but not edgeprune, which comes
from the bundle, and no package index; TensorRT, CUDA, trtexec and the tools of a Jetson are stand-ins (fake_board/).
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from edgeprune import bundle as bundles
from edgeprune import targets
from edgeprune.cli import cli
from edgeprune.export import recipe
from edgeprune.export.manifest import write_manifest
from edgeprune.export.page import readme
from edgeprune.export.wheel import wheel
from edgeprune.runtime.parity.stored import REFERENCE
from tests.pages import blocks, languages

MakeBundle = Callable[..., Path]
FAKES = Path(__file__).parents[1] / "fake_board"
NEEDS = ("click", "numpy", "pillow", "rich", "safetensors", "onnxruntime", "polygraphy", "onnx", "tomli")
BOARD = {"tensorrt": "10.3.0", "cuda-bindings": "12.6.0"}
"""packages that are played"""


@pytest.fixture
def make_page(make_bundle: MakeBundle) -> Callable[..., Path]:
    """make_page(target, carried=True, **fields of the manifest) -> a bundle of it, with page, scripts and wheel."""

    def make(target: str, carried: bool = True, **fields: object) -> Path:
        device, cost = targets.load(target), {"formula": 1, "graph": 10**9, "unpruned_formula": 2 * 10**9}
        folder = make_bundle(target=target, cost=cost, versions={"edgeprune": "1"}, **fields)
        manifest = dataclasses.replace(bundles.load(folder).manifest, files={})
        given = wheel() if carried else None
        if given:
            (folder / given.name).write_bytes(given.content)
        texts = {"README.md": readme(manifest, device, given, 600 << 20), "build.sh": recipe.build_script(device)}
        for name, text in {**texts, **recipe.polygraphy(device, folder / REFERENCE)}.items():
            if text:
                (folder / name).write_text(text)
        write_manifest(folder, manifest)
        return folder

    return make


def page_of(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_the_page_says_what_shortens_the_sequence(make_bundle: MakeBundle) -> None:
    manifest = dataclasses.replace(
        bundles.load(make_bundle(versions={"edgeprune": "1"}, cost={"graph": 1, "unpruned_formula": 2})).manifest,
        inside={"reducer": "tome", "options": {}},
        steps=((2, 12), (3, 6)),
    )
    said = "Inside the encoder `tome` shortens the sequence: 24 rows become 12 behind layer 2, 6 behind layer 3."
    assert said in readme(manifest, targets.load("cpu"), None, 1)
    assert "Inside the encoder" not in readme(dataclasses.replace(manifest, inside={}), targets.load("cpu"), None, 1)


# What can be checked without running it.


@pytest.mark.parametrize("target", targets.names())
def test_every_command_of_the_page_names_a_verb_and_options_that_exist(
    make_page: Callable[..., Path], target: str
) -> None:
    page = page_of(make_page(target))
    said = [line for block in blocks(page, "bash") for line in block.splitlines() if line.startswith("edgeprune ")]
    said += re.findall(r"`(edgeprune [^`]+)`", page)
    assert bool(said) == (target != "jetson-orin-jp51")
    for command in said:
        _, verb, *words = command.split()
        named = cli.get_command(click.Context(cli, **cli.context_settings), verb)
        assert named is not None
        options = {name for parameter in named.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("target", targets.names())
def test_what_is_no_command_for_this_machine_is_marked_so(make_page: Callable[..., Path], target: str) -> None:
    page = page_of(make_page(target))
    assert set(languages(page)) <= {"bash", "python", "sh", "console"}
    for block in blocks(page, "python"):
        compile(block, "README.md", "exec")


@pytest.mark.parametrize("target", ["jetson-orin", "jetson-thor", "datacenter"])
def test_an_engine_is_verified_by_its_own_executor(make_page: Callable[..., Path], target: str) -> None:
    page = page_of(make_page(target))
    assert "edgeprune build .\n" in page
    assert "edgeprune verify . --device tensorrt\nedgeprune bench . --device tensorrt\n" in page


def test_a_board_whose_python_is_too_old_gets_what_runs_there_and_no_promise(make_page: Callable[..., Path]) -> None:
    folder = make_page("jetson-orin-jp51")
    page = page_of(folder)
    assert "pip install" not in page
    assert blocks(page, "python") == []
    assert [block.split()[0] for block in blocks(page, "bash")] == [
        "sudo",
        "bash",
        '"${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}"',
    ]
    assert f"python3 -m zipfile -e {wheel().name} ~/edgeprune-c\n" in page
    assert "~/edgeprune-c/build/tools/edgeprune-verify . --device tensorrt\n" in page
    assert (folder / wheel().name).exists()
    assert "copy to there what `edgeprune runtime-source` names" in page_of(
        make_page("jetson-orin-jp51", carried=False)
    )


@pytest.mark.parametrize("board", ["Orin Nano 4 GB", "AGX Orin 64 GB"])
def test_each_board_of_the_family_has_its_own_memory_and_time(make_page: Callable[..., Path], board: str) -> None:
    page = page_of(make_page("jetson-orin"))
    assert re.search(rf"^\| {board} \| \d+ GiB \| \d+ GB/s \| \d+ TFLOPS \| \d+( to \d+)? min \|$", page, re.MULTILINE)


def test_a_build_that_a_small_board_has_no_memory_for_says_which(make_page: Callable[..., Path]) -> None:
    """600 MiB of weights: three times that, half a GiB of workspace, one of builder."""
    assert (
        "needs about 3.3 GiB of memory, for the weights, the workspace and the builder itself; Orin Nano 4 GB:"
        in page_of(make_page("jetson-orin"))
    )


@pytest.mark.parametrize("carried", [True, False])
def test_the_page_installs_the_wheel_that_is_carried_and_says_its_size(
    make_page: Callable[..., Path], carried: bool
) -> None:
    page, name = page_of(make_page("jetson-orin", carried)), wheel().name
    assert (f"pip install './{name}[cpu]' 'cuda-bindings==12.*'\n" in page) == carried
    assert (f"`{name}` ({len(wheel().content) / 1e6:.1f} MB)" in page) == carried
    assert ("pip install 'edgeprune[cpu]' 'cuda-bindings==12.*'\n" in page) != carried


# The board, and everything that can be run.


def closure(names: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """These packages and what they need, as far as it is installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [*names]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found or name == "edgeprune":
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [need for need in found[name].requires or () if "extra ==" not in need]
        wanted += [re.split(r"[^A-Za-z0-9._-]", need)[0] for need in needs]
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What JetPack's Python has: links to packages of these tests, and the stand-ins."""
    site = tmp_path_factory.mktemp("site")
    for found in closure(NEEDS).values():
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            place = Path(str(found.locate_file(top)))
            if top != "__pycache__" and place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)
    shutil.copytree(FAKES / "cuda", site / "cuda")
    shutil.copy(FAKES / "tensorrt.py", site)
    (site / "tests").mkdir()
    shutil.copy(FAKES.parent / "fake_gpu.py", site / "tests")
    for name, version in BOARD.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return site


PYTHON3 = """#!/bin/sh
# Ubuntu's: the packages of a venv with --system-site-packages are JetPack's.
case "$*" in "-m venv "*) ;; *) exec {python} "$@" ;; esac
for place in "$@"; do :; done
{python} -m venv --without-pip "$place"
for lib in "$place"/lib/python*/site-packages; do echo {site} > "$lib/jetpack.pth"; done
printf '#!/bin/sh\\nexec %s -m pip --python "%s/bin/python" "$@"\\n' {python} "$place" > "$place/bin/pip"
chmod +x "$place/bin/pip"
"""
POLYGRAPHY = '#!/bin/sh\nexec "$VIRTUAL_ENV/bin/python" -c "from polygraphy.tools import main; main()" "$@"\n'


@pytest.fixture
def typed(site: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """(folder, blocks as (language, text), sm=87) -> what a shell says that is given them one after the other."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    tools = tmp_path / "tools"
    tools.mkdir()
    texts = {
        "python3": PYTHON3.format(python=shlex.quote(sys.executable), site=shlex.quote(str(site))),
        "sudo": '#!/bin/sh\necho "sudo $*"\n',
        "polygraphy": POLYGRAPHY,
        "trtexec": (FAKES / "trtexec").read_text(),
    }
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "PIP_"))}
    environment = kept | {
        "HOME": str(tmp_path / "home"), "PATH": f"{tools}:/usr/bin:/bin", "TRTEXEC": str(tools / "trtexec"),
        "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80",
    }  # fmt: skip

    def run(folder: Path, steps: list[tuple[str, str]], sm: int = 87) -> subprocess.CompletedProcess[str]:
        script = [text if language == "bash" else f"python <<'END'\n{text}END\n" for language, text in steps]
        return subprocess.run(
            ["bash", "-eu"], input="\n".join(script), cwd=folder, env=environment | {"FAKE_SM": str(sm)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def steps(folder: Path, *left_out: str) -> list[tuple[str, str]]:
    """The blocks of the page in order, but those that say one of these; a measurement is cut short."""
    page = page_of(folder)
    order = [name for name in languages(page) if name in ("bash", "python")]
    found = {name: iter(blocks(page, name)) for name in ("bash", "python")}
    every = [(name, next(found[name])) for name in order]
    assert all(any(word in text for _, text in every) for word in left_out)
    kept = [(name, text) for name, text in every if not any(word in text for word in left_out)]
    return [(name, text.replace("edgeprune bench .", "edgeprune bench . --rounds 2")) for name, text in kept]


def photo(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(folder / "photo.jpg")


@pytest.mark.slow
def test_the_page_of_a_jetson_runs_from_the_first_line_to_the_last(
    make_page: Callable[..., Path], typed: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = make_page("jetson-orin", dtype="float16")
    photo(folder)
    more = "edgeprune inspect .\nedgeprune verify .\npython -c 'import edgeprune; print(edgeprune.__file__)'\n"
    done = typed(folder, [*steps(folder, "polygraphy run"), ("bash", more)])  # Polygraphy would want all of TensorRT
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sudo nvpmodel -q\nsudo jetson_clocks\n" in done.stdout
    assert "built encoder.jetson-orin.plan for SM 87" in done.stdout
    assert "parity on tensorrt" in done.stdout
    assert "trtexec 10.3.0" in done.stdout
    assert "<TokenEncoder: brightest keeps 5 of 24 tokens (21%), tensorrt>" in done.stdout
    assert "jetson-orin" in bundles.load(folder).manifest.engines
    assert "ran encoder.onnx on cpu, encoder.jetson-orin.plan on tensorrt\n" in done.stdout
    assert re.search(r"/edgeprune-env/lib/python[\d.]+/site-packages/edgeprune/__init__\.py$", done.stdout.strip())


@pytest.mark.slow
def test_an_engine_of_build_sh_is_taken_in_by_verify_and_bench(
    make_page: Callable[..., Path], typed: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    folder = make_page("jetson-orin")
    photo(folder)
    every = [
        (name, text.replace("edgeprune build .", "bash build.sh")) for name, text in steps(folder, "polygraphy run")
    ]
    done = typed(folder, every)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "built encoder.jetson-orin.plan; measure it with" in done.stdout
    assert "ran encoder.jetson-orin.plan on tensorrt\n" in done.stdout
    (engine,) = bundles.load(folder).manifest.engines.values()
    assert (engine.version, engine.sm, "STRONGLY_TYPED" in engine.flags) == ("10.3.0", (87,), True)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "sm"), [("datacenter", 89), ("cpu", 87), ("jetson-orin-jp51", 87)])
def test_so_does_the_page_of(
    make_page: Callable[..., Path], typed: Callable[..., subprocess.CompletedProcess[str]], target: str, sm: int
) -> None:
    folder = make_page(target)
    photo(folder)
    played = ("polygraphy run",) if target == "datacenter" else ()
    done = typed(folder, steps(folder, *played), sm)
    assert done.returncode == 0, done.stdout + done.stderr
    said = {"datacenter": "parity on tensorrt", "cpu": "Passed: 2/2 iterations", "jetson-orin-jp51": "built encoder"}
    assert said[target] in done.stdout

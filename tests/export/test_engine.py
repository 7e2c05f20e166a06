"""Engines: what is built, what is written beside the graph, and what is refused; TensorRT proper by a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from click.testing import CliRunner

from edgeprune import bundle, targets
from edgeprune.cli import cli
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError, TargetError
from edgeprune.export import Exported, engine
from edgeprune.export.audit import audit_bundle
from edgeprune.export.engine import TIMING_CACHE, build_engine

MakeStand = Callable[..., "Stand"]
RTX = "rtx-desktop"
PLAN = "encoder.rtx-desktop.plan"
HEADER = b"vtrt"
"""how every plan of TensorRT-RTX begins"""


@pytest.fixture(scope="module")
def exported(exported_once: Callable[..., Exported]) -> Path:
    """A float16 bundle for RTX cards; not to be changed."""
    return exported_once("fastervlm", RTX, keep=64).folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


@pytest.fixture
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# TensorRT-RTX, for real: it needs no GPU.


@pytest.mark.slow
def test_one_plan_serves_every_sm_of_the_target(trt: Any, folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    built, file = build_engine(folder, show=lambda *one: told.append(one))
    assert (built.plan, built.kind, built.version) == (PLAN, "tensorrt-rtx", trt.__version__)
    assert built.sm == (86, 89, 120)
    assert {"STRONGLY_TYPED", "NO_TF32"} <= set(built.flags)
    assert built.build_ms > 0
    assert (folder / PLAN).read_bytes().startswith(HEADER)
    assert file.size == (folder / PLAN).stat().st_size
    assert told
    found = bundle.load(folder)  # every size and sha256 is right
    assert found.manifest.engines == {RTX: built}
    assert found.manifest.files[PLAN] == file


@pytest.mark.slow
def test_what_is_no_engine_stays_as_it_was(trt: Any, exported: Path, folder: Path) -> None:
    build_engine(folder, sm=[86])
    before, after = contents(exported), contents(folder)
    assert after.keys() - before.keys() == {PLAN}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}


@pytest.mark.slow
def test_another_plan_needs_force(trt: Any, folder: Path) -> None:
    build_engine(folder, sm=[86])
    with pytest.raises(RequestError, match=f"has {PLAN}; replace it with --force"):
        build_engine(folder)
    built, _ = build_engine(folder, sm=[89, 89], force=True)
    assert bundle.load(folder).manifest.engines == {RTX: built}
    assert built.sm == (89,)


def test_an_engine_of_build_sh_can_be_taken_in_instead(folder: Path) -> None:
    (folder / PLAN).write_bytes(b"of trtexec")
    with pytest.raises(
        RequestError, match=f"take it into the manifest with --adopt {PLAN}, or replace it with --force"
    ):
        build_engine(folder)


@pytest.mark.parametrize("sm", [87, 90, 110, 8])
def test_an_sm_that_the_builder_does_not_know_is_built_on_the_device(trt: Any, folder: Path, sm: int) -> None:
    before = contents(folder)
    with pytest.raises(RequestError, match=rf"75, 80, 86.*got {sm}; .*built on the device"):
        build_engine(folder, sm=[86, sm])
    assert contents(folder) == before


@pytest.mark.slow
def test_a_target_of_ones_own_is_given_as_a_file(trt: Any, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "my-card.toml"
    source = (Path(targets.__file__).parent / f"{RTX}.toml").read_text().replace('"rtx-desktop"', '"my-card"')
    own.write_text(source)
    built, _ = build_engine(folder, str(own), sm=[120])
    assert built.plan == "encoder.my-card.plan"
    edit(folder, target="my-card")
    with pytest.raises(RequestError, match=r"the target my-card, a file of yours; give it as --target my-card\.toml"):
        build_engine(folder)


@pytest.mark.slow
def test_the_builders_own_error_is_the_message(trt: Any, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "small.toml"
    source = (Path(targets.__file__).parent / f"{RTX}.toml").read_text().replace("= 2048 ", "= 1 ")
    own.write_text(source)
    before = contents(folder)
    with pytest.raises(EdgepruneError, match=r"TensorRT-RTX .* cannot build .*workspace") as failed:
        build_engine(folder, str(own))
    assert len(str(failed.value).splitlines()) == 1
    assert failed.value.exit_code == 1
    assert contents(folder) == before


def test_a_graph_that_the_parser_refuses_is_named_with_its_node(trt: Any, folder: Path) -> None:
    model = onnx.load(folder / "encoder.onnx")
    model.graph.node[-1].op_type = "NoSuchOperator"
    onnx.save(model, folder / "encoder.onnx")
    relist(folder)
    before = contents(folder)
    with pytest.raises(EdgepruneError, match=r"cannot read .*encoder\.onnx: .*NoSuchOperator") as failed:
        build_engine(folder)
    assert len(str(failed.value).splitlines()) == 1
    assert contents(folder) == before


def test_an_interrupted_build_leaves_the_bundle_as_it_was(trt: Any, folder: Path) -> None:
    before = contents(folder)
    sent: list[int] = []

    def interrupt(done: int, total: int, what: str) -> None:
        if not sent:  # one is enough, and a second could come when nobody waits for it
            sent.append(done)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_engine(folder, show=interrupt)
    assert contents(folder) == before


def test_the_command_line_says_what_it_built(trt: Any, folder: Path) -> None:
    done = CliRunner().invoke(cli, ["build", str(folder), "--sm", "86", "--sm", "89"])
    assert done.exit_code == 0
    assert done.output.startswith(f"built {folder / PLAN} for SM 86, 89: ")
    again = CliRunner().invoke(cli, ["build", str(folder), "--force", "--audit", "--json"])
    said = json.loads(again.output)
    assert (said["engine"]["plan"], said["engine"]["sm"]) == (PLAN, [86, 89, 120])
    assert said["engine"]["sha256"] == bundle.load(folder).manifest.files[PLAN].sha256
    assert said["audit"]["passed"]


# What needs no builder.


def test_a_target_of_onnx_runtime_has_nothing_to_build(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"cpu runs encoder\.onnx with ONNX Runtime as it is: .* nothing to build"):
        build_engine(folder, "cpu")


def test_a_folder_that_cannot_be_written_is_named_before_the_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # to root, every folder is writable
    with pytest.raises(RequestError, match=f"{folder} must be writable, the plan goes into it; copy the bundle"):
        build_engine(folder, "rtx-desktop", force=True)


def test_a_free_batch_is_refused(folder: Path) -> None:
    graph = bundle.load(folder).manifest.encoder
    free = [
        {name: replace(spec, shape=("batch", *spec.shape[1:])) for name, spec in tensors.items()}
        for tensors in (graph.inputs, graph.outputs)
    ]
    edit(folder, graphs={"encoder": bundle.Graph(graph.file, *free)})
    for verb in (build_engine, audit_bundle):
        with pytest.raises(RequestError, match="export it without --dynamic-batch"):
            verb(folder)


def test_an_unknown_target_is_named(folder: Path) -> None:
    with pytest.raises(TargetError, match=r"Did you mean 'rtx-desktop'\?"):
        build_engine(folder, "rtx-desktops")


def test_a_missing_package_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match=r"needs the package tensorrt-rtx-cu13, .*'edgeprune\[rtx\]'"):
        build_engine(folder)


def test_without_tensorrt_a_jetson_says_what_to_run_on_the_board(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RequestError, match=r"export with --target jetson-orin, copy the bundle there \(JetPack 6\."):
        build_engine(folder, "jetson-orin")
    edit(folder, target="jetson-orin")
    with pytest.raises(RequestError, match=r"device: copy the bundle there .* and run `bash build\.sh`; .*tensorrt"):
        build_engine(folder)


# TensorRT proper: not run here; a stand-in shows which of its names are asked for.


class Enum:
    """Names with numbers, each once, as the enums of TensorRT's Python package."""

    def __init__(self, *names: str) -> None:
        self.__dict__.update({name: at for at, name in enumerate(names)})

    def __getattr__(self, name: str) -> int:
        raise AttributeError(name)


class Config:
    def __init__(self) -> None:
        self.set: dict[str, Any] = {}
        self.flags: list[int] = []
        self.cleared: list[int] = []
        self.cache = b""

    def set_flag(self, flag: int) -> None:
        self.flags.append(flag)

    def clear_flag(self, flag: int) -> None:
        self.cleared.append(flag)

    def set_memory_pool_limit(self, pool: int, size: int) -> None:
        self.set["workspace"] = size

    def create_timing_cache(self, content: bytes) -> Any:
        self.cache = content
        return SimpleNamespace()

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        return not ignore_mismatch

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.cache + b"+")


class Stand:
    """As much of the package tensorrt as one build asks for."""

    def __init__(self, version: str, plan: bytes | None = b"plan") -> None:
        self.__name__, self.__version__ = "tensorrt", version
        major = int(version.split(".")[0])
        self.config, self.network_flags, self.float32 = Config(), -1, "float32"
        self.layers = [SimpleNamespace(name=name, precision=None) for name in ("a/Add", "b/MatMul")]
        self.ILogger = type("ILogger", (), {})
        network = ["EXPLICIT_BATCH"] if major < 11 else []
        self.NetworkDefinitionCreationFlag = Enum(*network, *(["STRONGLY_TYPED"] if major >= 9 else []))
        self.BuilderFlag = Enum(*(["FP16", "INT8"] if major < 11 else []), "TF32", "OBEY_PRECISION_CONSTRAINTS")
        self.MemoryPoolType, self.ProfilingVerbosity = Enum("WORKSPACE"), Enum("DETAILED")
        stand = self

        class Builder:
            def __init__(self, log: Any) -> None:
                self.log = log

            def create_network(self, flags: int) -> Any:
                stand.network_flags = flags
                return SimpleNamespace(num_layers=len(stand.layers), get_layer=stand.layers.__getitem__)

            def create_builder_config(self) -> Config:
                return stand.config

            def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
                self.log.log(2, "a warning\nof two lines")
                self.log.log(1, "first error\nof two lines")
                self.log.log(1, "second error")
                return plan

        self.Builder = Builder
        self.OnnxParser = lambda network, log: SimpleNamespace(parse_from_file=lambda path: True)


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> MakeStand:
    def install(version: str, plan: bytes | None = b"plan") -> Stand:
        made = Stand(version, plan)
        monkeypatch.setitem(sys.modules, "tensorrt", made)
        return made

    monkeypatch.setattr(engine, "_gpu", engine._sm)  # no driver is asked
    return install


def test_the_orin_is_built_strongly_typed_by_its_own_package(folder: Path, stand: MakeStand) -> None:
    trt = stand("10.3.0")
    built, file = build_engine(folder, "jetson-orin")
    assert trt.network_flags == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.config.flags == []
    assert trt.config.cleared == [trt.BuilderFlag.TF32]
    assert trt.config.set == {"workspace": 512 << 20}
    assert (built.kind, built.version, built.sm) == ("tensorrt", "10.3.0", (87,))
    assert (folder / "encoder.jetson-orin.plan").read_bytes() == b"plan"
    assert file.size == 4
    assert bundle.load(folder).manifest.engines == {"jetson-orin": built}


def test_the_timing_cache_is_kept_for_the_next_build(folder: Path, stand: MakeStand) -> None:
    for before, after in ((b"", b"+"), (b"+", b"++")):
        trt = stand("10.3.0")
        build_engine(folder, "jetson-orin", force=True)
        assert trt.config.cache == before
        assert (folder / TIMING_CACHE).read_bytes() == after


def test_tensorrt_8_is_weakly_typed_with_an_explicit_batch(folder: Path, stand: MakeStand) -> None:
    trt = stand("8.6.2")
    build_engine(folder, "jetson-orin-jp60")
    assert trt.network_flags == 1 << trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH
    assert trt.config.flags == [trt.BuilderFlag.FP16]


def test_where_the_builder_chooses_float16_it_leaves_the_layers_that_overflow_in_float32(
    folder: Path, stand: MakeStand
) -> None:
    edit(folder, float32_nodes=("a/Add", "no/Layer"))
    trt = stand("8.6.2")
    built, _ = build_engine(folder, "jetson-orin-jp60")
    assert trt.config.flags == [trt.BuilderFlag.FP16, trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS]
    assert [layer.precision for layer in trt.layers] == ["float32", None]
    assert built.flags[:3] == ("NO_TF32", "FP16", "OBEY_PRECISION_CONSTRAINTS")
    assert bundle.load(folder).manifest.engines == {"jetson-orin-jp60": built}


def test_where_the_builder_chooses_types_it_may_take_the_int8_of_the_graph(folder: Path, stand: MakeStand) -> None:
    """A strongly typed one has no such flag: the types are in the graph."""
    bounds = {"regret": 0.01, "token_median": 0.05, "token_each": 0.15}
    edit(folder, precision="int8", quantised={"bounds": bounds})
    weak = stand("8.6.2")
    built, _ = build_engine(folder, "jetson-orin-jp60")
    assert weak.config.flags == [weak.BuilderFlag.FP16, weak.BuilderFlag.INT8]
    assert built.flags[:3] == ("NO_TF32", "FP16", "INT8")
    strong = stand("10.3.0")
    build_engine(folder, "jetson-orin")
    assert strong.config.flags == []


def test_another_release_is_refused(folder: Path, stand: MakeStand) -> None:
    stand("10.13.3.9")
    with pytest.raises(RequestError, match=r"jetson-orin needs tensorrt >=10\.3,<10\.4, here is 10\.13\.3\.9; "):
        build_engine(folder, "jetson-orin")


def test_sm_is_not_chosen_for_the_gpu_at_hand(folder: Path, stand: MakeStand) -> None:
    with pytest.raises(RequestError, match="--sm goes with tensorrt-rtx"):
        build_engine(folder, "jetson-orin", sm=[86])


def test_the_first_error_of_a_builder_that_gives_nothing_is_the_message(folder: Path, stand: MakeStand) -> None:
    stand("10.3.0", None)
    before = contents(folder)
    with pytest.raises(EdgepruneError, match=r"TensorRT 10\.3\.0 cannot build .*encoder\.onnx: first error$"):
        build_engine(folder, "jetson-orin")
    assert contents(folder) == before


def edit(folder: Path, **changes: Any) -> None:
    manifest = bundle.Manifest.from_json((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(replace(manifest, **changes).to_json())


def relist(folder: Path) -> None:
    """Bring sizes and sha256 up to date after a change."""
    edit(folder, files=bundle.describe_files(folder))


def test_a_device_builds_and_audits_without_torch() -> None:
    code = "import sys, edgeprune.export.engine, edgeprune.export.audit; print({'torch', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

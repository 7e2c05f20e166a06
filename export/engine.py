"""The graph of a bundle -> a TensorRT plan beside it.

tensorrt-rtx   built on any machine, without a GPU, for several SMs in one plan
tensorrt       built on the device itself, by its own package: the builder times kernels on the GPU that it builds for

The plan is what the builder gave, byte for byte; what it fits stands in the manifest. Needs neither torch nor onnx.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from edgeprune import bundle, targets
from edgeprune.bundle import Bundle, File, Plan
from edgeprune.errors import EdgepruneError, MissingPackageError, RequestError
from edgeprune.runtime.backends.plan import find_gpu
from edgeprune.targets import Target

__all__ = [
    "TIMING_CACHE",
    "Compiler",
    "build_engine",
    "check_batch",
    "choose_sm",
    "find_target",
    "load_rtx",
    "open_parser",
]

TIMING_CACHE = "timing.cache"
"""beside the graph, as build.sh has it: what the builder of TensorRT measured, so that the next build is a fast one"""
MESSAGE_CHARS = 300
ERROR, WARNING, VERBOSE = 1, 2, 4
"""severities of a builder's messages; smaller is worse"""

Show = Callable[[int, int, str], None]


def build_engine(
    folder: Path,
    target: str | None = None,
    sm: Sequence[int] = (),
    force: bool = False,
    show: Show = lambda done, total, what: None,
) -> tuple[Plan, File]:
    """Build the engine of a bundle and add it: `encoder.<target>.plan`, and the entries in the manifest, returned here.

    target: name or path of a .toml; None takes the bundle's
    sm: compute capabilities instead of the target's; only for tensorrt-rtx
    show: called with (done, total, what) as the build goes on

    Raises RequestError (and its kinds) when this machine cannot build it, EdgepruneError with the builder's first error
    when it fails. The bundle is then as it was.
    """
    opened = bundle.load(folder)
    device = find_target(opened, target)
    plan = f"encoder.{device.name}.plan"
    if device.engine.kind == "onnxruntime":
        graph = opened.manifest.encoder.file
        raise RequestError(f"{device.name} runs {graph} with ONNX Runtime as it is: there is nothing to build")
    if os.path.lexists(opened.folder / plan) and not force:
        keep = "" if plan in opened.manifest.files else f"take it into the manifest with --adopt {plan}, or "
        raise RequestError(f"{opened.folder} has {plan}; {keep}replace it with --force")
    if not os.access(opened.folder, os.W_OK):  # now, not after the minutes of a build
        raise RequestError(f"{opened.folder} must be writable, the plan goes into it; copy the bundle elsewhere")
    check_batch(opened)
    rtx = device.engine.kind == "tensorrt-rtx"
    if sm and not rtx:
        raise RequestError(f"--sm goes with tensorrt-rtx; for {device.name}, TensorRT builds for the GPU it runs on")
    trt = load_rtx() if rtx else _load_tensorrt(device, opened.manifest.target)
    if not device.engine.accepts(trt.__version__):
        raise RequestError(
            f"{device.name} needs {device.engine.kind} {device.engine.version}, here is {trt.__version__}; "
            "install one of these, or choose another --target"
        )
    sms = choose_sm(trt, sm or _sm(device)) if rtx else _gpu(device)

    start = time.perf_counter()
    compiler = Compiler(trt, opened.graph(bundle.ENCODER), strong=device.engine.typing == "strong")
    quantised = opened.manifest.quantised is not None
    flags = _configure(compiler, device, sms if rtx else (), opened.manifest.float32_nodes, quantised)
    timings = None if rtx else _open_timing_cache(compiler, opened.folder)
    content = compiler.build(show)
    engine = Plan(
        plan=plan,
        kind=device.engine.kind,
        version=trt.__version__,
        sm=tuple(sms),
        system=f"{platform.system()} {platform.machine()}",
        flags=flags,
        build_ms=round(1000 * (time.perf_counter() - start)),
    )
    manifest = bundle.add_engine(opened, device.name, engine, memoryview(content))
    if timings is not None:
        _keep_timing_cache(compiler, opened.folder)
    return engine, manifest.files[plan]


def find_target(opened: Bundle, given: str | None) -> Target:
    """The target of a bundle, or the one given in its place. Raises TargetError or RequestError when there is none."""
    name = given or opened.manifest.target
    if given is None and name not in targets.names():
        yours = f"{opened.folder} is for the target {name}, a file of yours"
        raise RequestError(f"{yours}; give it as --target {name}.toml")
    return targets.load(name)


def check_batch(opened: Bundle) -> None:
    """Raises RequestError for a bundle with a free batch."""
    if opened.manifest.dynamic_batch:
        raise RequestError(f"{opened.folder} leaves its batch open, a plan must not; export it without --dynamic-batch")


def load_rtx() -> Any:
    """The package tensorrt_rtx. Raises MissingPackageError without it."""
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise MissingPackageError("tensorrt-rtx-cu13", "rtx", error, "tensorrt_rtx") from None
    return tensorrt_rtx


def choose_sm(trt: Any, wanted: Sequence[int]) -> tuple[int, ...]:
    """What is wanted, each once. Raises RequestError when the builder of TensorRT-RTX does not know one of them."""
    known = sorted(int(name[2:]) for name in trt.ComputeCapability.__members__ if name[2:].isdigit())
    for sm in wanted:
        if sm not in known:
            have = ", ".join(map(str, known))
            raise RequestError(
                f"--sm must be one that TensorRT-RTX {trt.__version__} knows ({have}), got {sm}; "
                "an engine for another one is built on the device, with TensorRT"
            )
    return tuple(dict.fromkeys(wanted))


class Compiler:
    """One graph in the builder of TensorRT or TensorRT-RTX, whose Python interfaces are alike.

    graph: path of the .onnx; weights beside it are found
    strong: take the types of the graph as they are
    keep: the least severe of the builder's messages that are wanted in `messages`

    Raises EdgepruneError when the parser refuses the graph.
    """

    def __init__(self, trt: Any, graph: Path, strong: bool = True, keep: int = WARNING) -> None:
        self.trt, self.graph, self._log = trt, graph, _log(trt)
        builder, self.network, parser = open_parser(trt, strong, keep)
        self._builder = builder
        if not parser.parse_from_file(os.fspath(graph)):
            raise EdgepruneError(f"{_name(trt)} cannot read {graph}: {_parser_error(parser)}")
        self.config = builder.create_builder_config()
        self.strong = strong

    @property
    def messages(self) -> list[str]:
        """What the builder said so far, as far as it was kept."""
        return [text for _, text in self._log.messages]

    def target_sm(self, sms: Sequence[int]) -> None:
        """TensorRT-RTX only: the GPUs that the plan is for."""
        self.config.num_compute_capabilities = len(sms)  # before the next lines, which it makes room for
        for at, sm in enumerate(sms):
            self.config.set_compute_capability(getattr(self.trt.ComputeCapability, f"SM{sm}"), at)

    def build(self, show: Show = lambda done, total, what: None) -> Any:
        """The plan, as a buffer. Raises EdgepruneError with the builder's first error when there is none.

        The builder runs in a thread of its own: it swallows what is raised in its callbacks, Ctrl-C too.
        """
        stop = threading.Event()
        if hasattr(self.trt, "IProgressMonitor"):  # since TensorRT 10
            self.config.progress_monitor = _monitor(self.trt)(show, stop)
        with ThreadPoolExecutor(max_workers=1) as pool:
            built = pool.submit(self._builder.build_serialized_network, self.network, self.config)
            try:
                plan = built.result()
            except BaseException:
                stop.set()
                raise
        if plan is None:
            errors = [text for severity, text in self._log.messages if severity <= ERROR]
            said = _line(errors[0]) if errors else "it does not say why"
            small = any("workspace limit" in text for text in errors)
            remedy = "; raise engine.workspace_mib of the target" if small else ""
            raise EdgepruneError(f"{_name(self.trt)} cannot build {self.graph}: {said}{remedy}")
        return plan


def open_parser(trt: Any, strong: bool = True, keep: int = WARNING) -> tuple[Any, Any, Any]:
    """A builder, its network, and the parser that fills it. What they say goes to the log of the package."""
    log = _log(trt)
    log.begin(keep)
    builder = trt.Builder(log)
    network = builder.create_network(_network_flags(trt, strong))
    return builder, network, trt.OnnxParser(network, log)


def _configure(
    compiler: Compiler, target: Target, sms: Sequence[int], float32_nodes: Sequence[str], quantised: bool
) -> tuple[str, ...]:
    """Set what the target asks for; returns it by NVIDIA's names. Names that came and went are looked up.

    quantised: whether products of the graph are, which a builder that chooses types by itself has to be allowed
    """
    trt, config, engine, flags = compiler.trt, compiler.config, target.engine, []
    if (tf32 := getattr(trt.BuilderFlag, "TF32", None)) is not None:  # on by default; 10 bits are not float32
        config.clear_flag(tf32)
        flags.append("NO_TF32")
    if compiler.strong:
        flags.append("STRONGLY_TYPED")
    else:
        config.set_flag(_named(trt.BuilderFlag, "FP16", f"{target.name} is weakly typed, which TensorRT 11 ended"))
        flags.append("FP16")
        if quantised:
            config.set_flag(trt.BuilderFlag.INT8)
            flags.append("INT8")
        if float32_nodes:
            _keep_float32(compiler, set(float32_nodes))
            flags.append("OBEY_PRECISION_CONSTRAINTS")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names in the plan: no cost when it runs
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, (engine.workspace_mib or 0) << 20)
    if sms:
        compiler.target_sm(sms)
    return (*flags, "PROFILING_DETAILED", f"WORKSPACE={engine.workspace_mib}MiB")


def _keep_float32(compiler: Compiler, nodes: set[str]) -> None:
    """A layer of the parser has the name of its node."""
    trt, network = compiler.trt, compiler.network
    compiler.config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for layer in (network.get_layer(at) for at in range(network.num_layers)):
        if layer.name in nodes:
            layer.precision = trt.float32


def _network_flags(trt: Any, strong: bool) -> int:
    have, flags = trt.NetworkDefinitionCreationFlag, 0
    if strong:
        flags |= 1 << int(_named(have, "STRONGLY_TYPED", "a strongly typed graph needs TensorRT 9 or later"))
    explicit = getattr(have, "EXPLICIT_BATCH", None)  # needed by TensorRT 8, idle in 10, gone in 11
    return flags if explicit is None or strong else flags | 1 << int(explicit)


def _named(enum: Any, name: str, otherwise: str) -> Any:
    member = getattr(enum, name, None)
    if member is None:
        raise RequestError(f"{otherwise}; choose another --target")
    return member


def _sm(target: Target) -> tuple[int, ...]:
    assert target.gpu is not None  # targets.check: every target of this kind has one
    return target.gpu.sm


def _load_tensorrt(target: Target, exported: str) -> Any:
    try:
        import tensorrt
    except ModuleNotFoundError:
        board = f" (JetPack {target.jetson.jetpack})" if target.jetson else ""
        again = "" if exported == target.name else f"export with --target {target.name}, "
        raise RequestError(
            f"{target.name} is built on the device: {again}copy the bundle there{board} and run `bash build.sh`; "
            "the package tensorrt, which would do it here, is not installed"
        ) from None
    return tensorrt


def _gpu(target: Target) -> tuple[int, ...]:
    """The compute capability of the first GPU here, which TensorRT builds for; the target's where the driver is mute.

    Raises RequestError when it is none of the target's.
    """
    wanted, number = _sm(target), find_gpu().sm
    if number is None:
        return wanted
    if number not in wanted:
        raise RequestError(f"{target.name} is for SM {', '.join(map(str, wanted))}, the GPU here has SM {number}")
    return (number,)


def _open_timing_cache(compiler: Compiler, folder: Path) -> Any:
    path = folder / TIMING_CACHE
    cache = compiler.config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    compiler.config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep_timing_cache(compiler: Compiler, folder: Path) -> None:
    cache, fresh = compiler.config.get_timing_cache(), folder / f".{TIMING_CACHE}"
    if cache is not None:
        fresh.write_bytes(bytes(cache.serialize()))
        fresh.replace(folder / TIMING_CACHE)


def _name(trt: Any) -> str:
    product = "TensorRT-RTX" if trt.__name__ == "tensorrt_rtx" else "TensorRT"
    return f"{product} {trt.__version__}"


def _parser_error(parser: Any) -> str:
    if not parser.num_errors:
        return "it does not say why"
    error = parser.get_error(0)
    named = [getattr(error, part)() for part in ("node_name", "node_operator") if hasattr(error, part)]  # TensorRT 10
    return _line(": ".join([*filter(None, [" ".join(filter(None, named))]), error.desc()]))


def _line(text: str) -> str:
    return text.strip().splitlines()[0][:MESSAGE_CHARS] if text.strip() else "it does not say why"


@cache
def _log(trt: Any) -> Any:
    """One for all builders of a package: it keeps the first that it is given, for as long as any of them lives."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.begin(WARNING)

        def begin(self, keep: int) -> None:
            self.keep = keep
            self.messages: list[tuple[int, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= self.keep:
                self.messages.append((int(severity), text))

    return Log()


@cache
def _monitor(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Shows the outermost phase; the builder gives up at its next step once it is to stop."""

        def __init__(self, show: Show, stop: threading.Event) -> None:
            super().__init__()
            self.show, self.stop = show, stop
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:
                self.steps[phase] = steps
                self.show(0, steps, phase)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                self.show(step, self.steps[phase], phase)
            return not self.stop.is_set()

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

    return Monitor

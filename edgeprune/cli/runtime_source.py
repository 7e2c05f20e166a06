"""`edgeprune runtime-source`: where the C library's sources are."""

from __future__ import annotations

import click

from edgeprune.cli import options
from edgeprune.cli.console import print_json

__all__ = ["command"]


@click.command("runtime-source")
@click.option("--onnxruntime", is_flag=True, help="Print the ONNX Runtime library that Python has here instead.")
@options.verb
def command(onnxruntime: bool, as_json: bool) -> None:
    """Print the folder of the C library's sources, for cmake.

    \b
    edgeprune runtime-source
    cmake -S "$(edgeprune runtime-source)" -B build && cmake --build build
    export EDGEPRUNE_ONNXRUNTIME="$(edgeprune runtime-source --onnxruntime)"
    """
    from edgeprune.runtime.sources import c_sources, onnxruntime_library

    path = onnxruntime_library() if onnxruntime else c_sources()
    if as_json:
        print_json({"onnxruntime" if onnxruntime else "sources": str(path)})
    else:
        click.echo(path)

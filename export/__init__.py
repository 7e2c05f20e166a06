"""Graph out: torch.export, the passes, ONNX, and the bundle around it. Needs torch, transformers and onnx.

`engine` and `audit` need none of them, only TensorRT: a device builds its engine without. So `job` is imported when one
of its names is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.export.job import Exported, Request, export_bundle
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from edgeprune.export import job

        return getattr(job, name)


__all__ = ["Exported", "Request", "export_bundle"]

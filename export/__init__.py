"""Graph out: torch.export, the passes, ONNX, and the bundle around it. Needs torch, transformers and onnx."""

from edgeprune.export.job import Exported, Request, export_bundle

__all__ = ["Exported", "Request", "export_bundle"]

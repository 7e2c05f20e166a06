"""What lmms-eval's entry-point group is given. Apart from `lmms_eval`, which lmms-eval's own imports lead back to."""

from __future__ import annotations

from typing import Any

__all__ = ["manifest"]


def manifest() -> Any:
    """-> lmms_eval.models.registry_v2.ModelManifest, of `--model edgeprune`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("edgeprune", chat_class_path="edgeprune.integrations.lmms_eval.Edgeprune")

"""A bundle's encoder in front of its decoder: one folder that an engine opens. Needs torch, transformers and onnx.

request    what is asked for; refuses what it can before torch is imported
job        the steps: read, build, write, ask torch, check
texts      tokenizer, chat template, stop ids
decoder    the language model alone, through onnxruntime-genai's model builder
embedding  the dozen nodes between encoder and decoder
genai, ort, transformersjs     what each engine's folder looks like
"""

from typing import TYPE_CHECKING

from edgeprune.export.assemble.request import Request

if TYPE_CHECKING:
    from edgeprune.export.assemble.job import Assembly, assemble
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from edgeprune.export.assemble import job

        return getattr(job, name)


__all__ = ["Assembly", "Request", "assemble"]

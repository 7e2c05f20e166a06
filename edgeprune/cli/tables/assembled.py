"""What an assembled model is, and where the time of an answer went."""

from __future__ import annotations

from rich.table import Table

from edgeprune.cli.tables import facts
from edgeprune.runtime.generate.folder import Assembled
from edgeprune.runtime.generate.model import Answer

__all__ = ["answer_line", "assembled_table"]


def assembled_table(manifest: Assembled) -> Table:
    decoder, nbytes = manifest.decoder, sum(file.size for file in manifest.files.values())
    return facts(
        f"{manifest.model} for {manifest.engine}",
        {
            "encoder": f"{manifest.family}, {manifest.keep} tokens of an image, {manifest.hidden_size} wide",
            "decoder": f"{decoder.architecture}, {decoder.layers} layers, {decoder.precision}",
            "context": f"{manifest.context_length} tokens, prompt and answer together",
            "size": f"{nbytes / (1 << 20):.1f} MiB beside the bundle",
        },
    )


def answer_line(answer: Answer) -> str:
    """Where the time went, in one line."""
    rate = "" if answer.tokens_per_s is None else f", {answer.tokens_per_s:.1f} tokens/s behind it"
    images = f", {answer.image_tokens} of images" if answer.image_tokens else ""
    return (
        f"first token after {answer.first_token_ms:.1f} ms (image {answer.image_ms:.1f}, encoder "
        f"{answer.encoder_ms:.1f}, prefill {answer.prefill_ms:.1f} of {answer.prompt_tokens} tokens{images}){rate}"
    )

"""What an assembled model is, and where the time of an answer went."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from edgeprune.cli.tables import facts, table
from edgeprune.runtime.generate.folder import Assembled
from edgeprune.runtime.generate.model import Answer
from edgeprune.runtime.generate.verify import GenerateReport

__all__ = ["answer_line", "assembled_table", "differences_table", "generate_line"]


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


def generate_line(report: GenerateReport) -> str:
    """How many answers are torch's, in one line."""
    asked, others = len(report.said), [one for one in report.said if one.verdict != "equal"]
    kinds = ", ".join(
        f"{sum(one.verdict == kind for one in others)} {kind}" for kind in dict.fromkeys(one.verdict for one in others)
    )
    return (
        f"{report.engine} {report.version}, decoder {report.precision}: {report.equal} of {asked} answers are torch's "
        f"with the same tokens{f', {kinds}' if kinds else ''}"
    )


def differences_table(report: GenerateReport) -> list[Table]:
    """The answers that are not torch's; none where all are."""
    others = [one for one in report.said if one.verdict != "equal"]
    if not others:
        return []
    shown = table("Answers that differ from torch's", "image", "question", "said", "verdict", "why")
    for one in others:
        shown.add_row(*(escape(text) for text in (one.image, one.question, one.text, one.verdict, one.reason)))
    return [shown]

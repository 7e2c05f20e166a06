"""The language part of a vision-language model: tokens of an image and questions become answers.

    prompt    text <image> text        as the checkpoint's chat template says
    becomes   text, the K tokens, text         positions 0, 1, 2, ... over what is there

One new token each: the questions about an image stand behind each other in one sequence, share its prefix, and see
nothing of each other; all of them, of a batch of images, are one forward pass. Longer answers: `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeprune.checkpoint import find, read_config
from edgeprune.errors import ModelError, RequestError
from edgeprune.quality.packing import Prompt, hidden_states, length, pack

__all__ = ["Language", "elsewhere", "load_language"]

PROMPT = "USER: <image>\n{question} ASSISTANT:"
"""of LLaVA-1.5, where the checkpoint has no chat template"""
POSITIONS = {"cpu": 4096, "cuda": 32768}
"""of one forward pass, over the batch"""

Tokens = NDArray[Any] | Tensor


def load_language(model: str | None = None, revision: str | None = None, device: str = "cpu") -> Language:
    """The language part of a checkpoint: a local folder or an id of the hub; without a name, of the embedded model.

    On the CPU in float32, on a GPU as it is stored. Raises ModelError when there is none, or transformers cannot read
    it as a model of images and text with one-dimensional positions.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    files = find(model, revision)
    _check_positions(read_config(files), files.id)
    where: dict[str, Any] = {} if files.revision == "local" else {"revision": files.revision}
    place = files.place if files.revision == "local" else files.id
    try:
        processor: Any = transformers.AutoProcessor
        processor = processor.from_pretrained(place, **where)
        dtype = torch.float32 if device == "cpu" else "auto"
        loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            place, dtype=dtype, attn_implementation="sdpa", **where
        )
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ModelError(f"{files.id} must be a model of images and text that transformers reads: {reason}") from None
    return Language(loaded.to(device).eval(), processor, files.id)


class Language:
    """model: a ...ForConditionalGeneration of transformers, on its device; processor: its own"""

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        self.model, self.name = model, name
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self.processor = processor
        self._image = int(model.config.image_token_id)
        self._embed = model.get_input_embeddings()

    def answers(
        self, tokens: Tokens | Sequence[Tokens], questions: Sequence[Sequence[str]], longest: int = 1
    ) -> list[list[str]]:
        """Of every image the answers to its questions, stripped.

        tokens: of each image [K, D], as an encoder's projector hands them out: an array [B, K, D], or a list when their
            numbers differ; K may be 0
        longest: new tokens at most; with 1 all questions share one forward pass

        Raises RequestError when images and lists of questions are not equally many, or D is not the model's width.
        """
        if len(tokens) != len(questions):
            raise RequestError(f"each image must have its questions, got {len(tokens)} images and {len(questions)}")
        own = [torch.as_tensor(one).to(self._embed.weight) for one in tokens]
        width = self._embed.weight.shape[1]
        for one in own:
            if one.dim() != 2 or one.shape[1] != width:
                raise RequestError(f"tokens must be [K, {width}] for {self.name}, got {list(one.shape)}")
        prompts = [[self.prompt(text) for text in texts] for texts in questions]
        with torch.inference_mode():
            return self._packed(own, prompts) if longest == 1 else self._generated(own, prompts, longest)

    def prompt(self, question: str) -> Prompt:
        """The ids in front of the image and behind it."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
        else:
            text = PROMPT.format(question=question)
        start = self._tokenizer.bos_token
        ids = self._tokenizer(text, add_special_tokens=not (start and text.startswith(start)))["input_ids"]
        if ids.count(self._image) != 1:
            raise ModelError(
                f"a prompt of {self.name} must have one image token, has {ids.count(self._image)}: {text!r}"
            )
        at = ids.index(self._image)
        return ids[:at], ids[at + 1 :]

    def ids(self, answer: str) -> list[int]:
        """Of an answer behind a prompt, without what ends it."""
        before, whole = (self._tokenizer.encode(text, add_special_tokens=False) for text in (":", f": {answer}"))
        return list(whole[len(before) :])

    def words(self, question: str) -> Tensor:
        """[L, D], what the language model makes of the tokens of a question alone, in front of its layers.

        Raises RequestError for one without any.
        """
        ids = self._tokenizer.encode(question, add_special_tokens=False)
        if not ids:
            raise RequestError(f"a question must have a word, got {question!r}")
        with torch.no_grad():
            words: Tensor = self._embed(torch.tensor(ids, device=self._embed.weight.device))
        return words

    def vector(self, question: str) -> NDArray[np.float32]:
        """[D], the question as one vector of the space that tokens are in: the mean embedding of all of the prompt but
        the image, as OpenVINO GenAI takes it."""
        front, behind = self.prompt(question)
        with torch.inference_mode():
            embedded = self._embed(torch.tensor([*front, *behind], device=self._embed.weight.device))
        mean: NDArray[np.float32] = embedded.float().mean(dim=0).cpu().numpy()
        return mean

    def queries(self, question: str) -> NDArray[np.float32]:
        """[H * d], the question as the mean query of its tokens in the first layer, in front of rotary positions, as
        HAWK takes it; its tokens are those behind the image."""
        layer, (_, behind) = self.model.model.language_model.layers[0], self.prompt(question)
        with torch.inference_mode():
            embedded = self._embed(torch.tensor(behind, device=self._embed.weight.device))
            queries = layer.self_attn.q_proj(layer.input_layernorm(embedded))
        mean: NDArray[np.float32] = queries.float().mean(dim=0).cpu().numpy()
        return mean

    def _packed(self, tokens: list[Tensor], prompts: list[list[Prompt]]) -> list[list[str]]:
        first: list[list[str]] = [[] for _ in prompts]
        asked = [at for at, one in enumerate(prompts) if one]
        for part in _parts(asked, [length(tokens[at], prompts[at]) for at in asked], POSITIONS[self.model.device.type]):
            best = self._next([tokens[at] for at in part], [prompts[at] for at in part])
            for at, row in zip(part, best, strict=True):
                first[at] = [self._tokenizer.decode([one], skip_special_tokens=True).strip() for one in row]
        return first

    def _next(self, tokens: list[Tensor], prompts: list[list[Prompt]]) -> list[list[int]]:
        """The likeliest next id of every question."""
        packed = pack(self._embed, tokens, prompts)
        hidden = hidden_states(self.model.model.language_model, packed)
        best = iter(self.model.lm_head(hidden[packed.rows, packed.ends]).argmax(dim=-1).tolist())
        return [[next(best) for _ in own] for own in prompts]

    def _generated(self, tokens: list[Tensor], prompts: list[list[Prompt]], longest: int) -> list[list[str]]:
        """By the model's own `generate`, padded on the left."""
        device, answers = self.model.device, [[""] * len(own) for own in prompts]
        asked = [(at, number) for at, own in enumerate(prompts) for number in range(len(own))]
        lengths = [len(tokens[at]) + sum(map(len, prompts[at][number])) for at, number in asked]
        for part in _parts(range(len(asked)), lengths, POSITIONS[device.type]):
            total = max(lengths[one] for one in part)
            embedded = self._embed.weight.new_zeros(len(part), total, self._embed.weight.shape[1])
            mask = torch.zeros(len(part), total, dtype=torch.long, device=device)
            for row, one in enumerate(part):
                at, number = asked[one]
                front, behind = (self._embed(torch.tensor(ids, device=device)) for ids in prompts[at][number])
                embedded[row, total - lengths[one] :] = torch.cat([front, tokens[at], behind])
                mask[row, total - lengths[one] :] = 1
            padding = self._tokenizer.pad_token_id
            given = self.model.generate(
                inputs_embeds=embedded,
                attention_mask=mask,
                max_new_tokens=longest,
                do_sample=False,
                num_beams=1,
                pad_token_id=self._tokenizer.eos_token_id if padding is None else padding,
            )
            texts = self._tokenizer.batch_decode(given, skip_special_tokens=True)
            for one, text in zip(part, texts, strict=True):
                at, number = asked[one]
                answers[at][number] = text.strip()
        return answers


def _check_positions(config: dict[str, Any], id: str) -> None:
    """Raises ModelError where a token's position says more than its place in the sequence."""
    text = config.get("text_config") or config
    rotary = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if isinstance(rotary, dict) and "mrope_section" in rotary:
        raise ModelError(
            f"the language part must count positions along one axis, that of {id} has three; ask it image by image "
            f"with edgeprune.integrations.transformers.generation_inputs"
        )


def elsewhere(count: int) -> list[int]:
    """Of each image another one, all different: the row that says what can be answered without seeing.

    >>> elsewhere(3)
    [1, 2, 0]

    Raises RequestError when there are fewer than two.
    """
    if count < 2:
        raise RequestError(f"another image needs two images or more, got {count}")
    return np.roll(np.arange(count), -1).tolist()


def _parts(items: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Batches in this order, none with more positions (its longest sequence times their number), unless it is one."""
    part: list[int] = []
    longest = 0
    for item, own in zip(items, lengths, strict=True):
        if part and max(longest, own) * (len(part) + 1) > most:
            yield part
            part, longest = [], 0
        part.append(item)
        longest = max(longest, own)
    if part:
        yield part

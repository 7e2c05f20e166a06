"""A bundle in front of its language model, on the tasks that lmms-eval has: GQA, POPE, TextVQA, MME and what else.

    pip install 'edgeprune[lmms-eval]'
    lmms-eval --model edgeprune --model_args bundle=out,pretrained=llava-hf/llava-1.5-7b-hf --tasks pope,gqa

lmms-eval finds it by its entry point (`lmms_manifest`). The images of a prompt go through the bundle's exported graph,
the tokens that it keeps to transformers' own `generate`; prompts are made by the model's own chat template.

Source  EvolvingLMMs-Lab/lmms-eval@v0.7.3 lmms_eval/models/registry_v2.py, api/model.py (what a model has to be)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from edgeprune.checkpoint import find
from edgeprune.errors import RequestError
from edgeprune.integrations.transformers import generation_inputs
from edgeprune.runtime import TokenEncoder, load

__all__ = ["Edgeprune"]

LONGEST = 1024
"""tokens of an answer, of a task that does not say"""
ITS_OWN = ("until", "max_new_tokens", "image_aspect_ratio", "query")
"""of a task's generation_kwargs, what is not passed on to `generate` as it is"""


class Edgeprune(lmms):  # type: ignore[misc]  # its base is untyped
    """`--model edgeprune`.

    bundle: its folder, or its name in the Hugging Face cache
    pretrained: the model whose encoder it is, an id or a folder; by default the one that the bundle was exported from
    keep: only so many of the kept tokens, where kept sets nest
    encoder_device: of the bundle, as `edgeprune.runtime.load` takes it
    device: of the language model
    dtype: of the language model, such as float16; by default that of its checkpoint

    Raises RequestError for a bundle of a detector, or a batch size other than 1.
    """

    is_simple = False

    def __init__(
        self,
        bundle: str,
        pretrained: str | None = None,
        keep: int | str | None = None,
        encoder_device: str = "auto",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        **_: Any,
    ) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        super().__init__()
        if str(batch_size) not in ("1", "auto"):
            raise RequestError(f"--batch_size must be 1: prompts run one by one, got {batch_size}")
        self.encoder = load(bundle, encoder_device, kind=TokenEncoder, keep=None if keep is None else int(keep))
        files = find(pretrained or self.encoder.manifest.model.id)
        hub = {} if files.revision == "local" else {"revision": files.revision}
        place = files.id if hub else files.place
        self.processor: Any = AutoProcessor.from_pretrained(place, **hub)  # type: ignore[no-untyped-call]
        model: Any = AutoModelForImageTextToText.from_pretrained(place, dtype=dtype, **hub)
        self.model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answer to each request, in their order."""
        answers = []
        for request in tqdm(requests, disable=self.rank != 0, desc="edgeprune"):
            context, to_messages, kwargs, number, task, split = request.args
            chat = ChatMessages(messages=to_messages(self.task_dict[task][split][number]))
            answer = self._answer(chat, dict(kwargs))
            self.cache_hook.add_partial("generate_until", (context, kwargs), answer)
            answers.append(answer)
        return answers

    @torch.inference_mode()
    def _answer(self, chat: ChatMessages, kwargs: dict[str, Any]) -> str:
        images, videos, audios = chat.extract_media()
        if videos or audios:
            raise RequestError("a bundle encodes images; this task has video or audio, choose one of images")
        prompt = self.processor.apply_chat_template(chat.to_hf_messages(), tokenize=False, add_generation_prompt=True)
        input_ids = self.processor.tokenizer(prompt, return_tensors="pt").input_ids.to(self.model.device)
        inputs = (
            generation_inputs(self.model, self.encoder, [image.convert("RGB") for image in images], input_ids)
            if images
            else {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        )
        made = self.model.generate(**inputs, **generation(kwargs))
        said: str = self.processor.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return cut(said, kwargs.get("until") or []).strip()

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Raises RequestError: what is evaluated is what a device would say."""
        raise RequestError("edgeprune answers by generating; choose a task with output_type generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Raises RequestError: a prompt is one round."""
        raise RequestError("edgeprune answers in one round; choose a task with output_type generate_until")


def generation(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A task's generation_kwargs as `generate` takes them: greedy, unless a temperature above 0 is asked for."""
    given = {name: value for name, value in kwargs.items() if name not in ITS_OWN and value is not None}
    sampled = bool(given.pop("do_sample", False)) or given.get("temperature", 0) > 0
    if not sampled:
        given = {name: value for name, value in given.items() if name not in ("temperature", "top_p", "top_k")}
    return {**given, "do_sample": sampled, "max_new_tokens": int(kwargs.get("max_new_tokens") or LONGEST)}


def cut(said: str, until: str | list[str]) -> str:
    """A text up to the first of these ends."""
    for end in [until] if isinstance(until, str) else until:
        said = said.split(end)[0] if end else said
    return said

"""Models that people ask for and no family reads: why, and what to use instead. The catalog reads it, as a literal.

A family that knows why its own like are refused says so in its file. Facts are those of transformers 5.24.
"""

from __future__ import annotations

__all__ = ["REFUSED"]

REFUSED = {
    "its tower is a convolutional network, which has no attention over patches and makes few tokens already; use a "
    "Gemma 3 or a Gemma 4 with a tower": ("gemma3n", "gemma3n_vision"),
    "its tower is a convolutional network, which has no attention over patches and makes few tokens already; use a "
    "LLaVA, or a SmolVLM where it must be as small": ("fast_vlm", "llava_qwen2"),
    "most layers of its tower are convolutions over the map, which need every patch; use an LFM2-VL": (
        "lfm3_vl", "lfm3_vl_vision",
    ),
    "its tokens are rows of averaged patches with separators between them, on tiles that a mask cuts; use a Qwen3-VL "
    "or an InternVL": ("phi4_multimodal", "phi4mm", "phi3_v"),
    "its tokens are pooled by attention over overlapping crops of two layers; use a Qwen3-VL or an InternVL": (
        "molmo", "molmo2",
    ),
    "its projector is a softmax over a visual vocabulary, so that a token is a mean of a table, not a patch; use a "
    "Qwen3-VL or an InternVL": ("ovis", "ovis2"),
    "its tower turns by complex numbers and has [CLS] last, in front of 109 billion weights, which no edge device "
    "takes; use a Gemma 3 or a Qwen3-VL": ("llama4", "llama4_vision_model"),
    "its language model attends across to features of six layers side by side, in which no place can be left out; use "
    "a LLaVA or a Qwen3-VL": ("mllama", "mllama_vision_model"),
    "its code is not in transformers; use a Qwen3-VL or an InternVL": ("kimi_vl", "deepseek_vl_v2", "moonvit"),
    "it has a trillion weights, which no edge device takes; use a Qwen3-VL": ("kimi_k25",),
    "a SAM encoder and convolutions stand in front of its tower, and make few tokens of the map already; use a "
    "Qwen3-VL": ("deepseek_ocr", "deepseek_ocr2", "got_ocr2", "deepseek_vl_hybrid"),
    "its tower norms queries and keys, which no family does as it does; use a LLaVA with a SigLIP tower": (
        "janus", "janus_vision_model",
    ),
    "its tokens are few queries that attend to the patches, none of which is a patch; use a LLaVA of the same size": (
        "blip-2", "instructblip", "instructblipvideo", "idefics", "idefics2", "granite4_vision", "qwen_vl",
        "minicpmv", "minicpmo",
    ),
    "it has 112 billion weights, which no edge device takes, and chooses its tiles by a rule of its own; use an Aya "
    "Vision": ("cohere2_vision",),
    "its image processor shrinks an image first and puts it into a gray square then, which no other does; use a LLaVA "
    "with a SigLIP tower of the same size": ("deepseek_vl",),
    "its language model counts its positions over the canvas of all slices of an image; use a MiniCPM-V 4.6, or a "
    "Qwen3.5, whose language model it has": ("minicpmv4_7",),
    "its fused weights are of InternVL's own code; use the checkpoint of the same name with -HF": ("internvl_chat",),
    "its decoder reads the whole map of features, in which no place can be left out; for detection use a YOLOS": (
        "sam", "sam_hq", "sam2", "sam2_video", "sam3", "sam3_video", "sam3_tracker", "sam3_tracker_video", "deimv2",
    ),
}  # fmt: skip
"""why not, and what to use instead -> the model_types of such"""

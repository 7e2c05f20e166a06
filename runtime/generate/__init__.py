"""A whole vision-language model where there is no torch: the encoder of a bundle in front of its decoder.

with open_model("model") as model:
    print(model.ask("photo.jpg", "what color is the square?").text)

Needs numpy, Pillow, tokenizers, jinja2, ONNX Runtime and the engine of the folder: `edgeprune assemble` makes one.
"""

from edgeprune.runtime.generate.engine import Encoded, Engine, Prompted, Sampling
from edgeprune.runtime.generate.folder import Assembled, Folder, load_folder
from edgeprune.runtime.generate.model import Answer, Conversation, Model, open_model

__all__ = [
    "Answer",
    "Assembled",
    "Conversation",
    "Encoded",
    "Engine",
    "Folder",
    "Model",
    "Prompted",
    "Sampling",
    "load_folder",
    "open_model",
]

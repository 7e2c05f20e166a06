"""Run a bundle: images in, kept tokens out. Needs numpy, Pillow and ONNX Runtime, or TensorRT for a plan; no torch.

encoder = load("out")
tokens, indices, scores = encoder("photo.jpg")
"""

from edgeprune.runtime.backends.ort import available_devices
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.loading import Encoder, Images, Output, load

__all__ = ["Encoder", "Images", "Output", "Preprocessing", "available_devices", "load"]

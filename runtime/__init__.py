"""Run a bundle: images in, kept tokens, boxes or classes out. Needs numpy, Pillow and ONNX Runtime, or TensorRT for a
plan.

encoder = load("out")
tokens, indices, scores = encoder("photo.jpg")
"""

from edgeprune.runtime.backends.ort import available_devices
from edgeprune.runtime.classes import Classes
from edgeprune.runtime.classifier import Classifier
from edgeprune.runtime.detections import Detections
from edgeprune.runtime.detector import Detector
from edgeprune.runtime.images.preprocess import Preprocessing
from edgeprune.runtime.loading import load
from edgeprune.runtime.runner import Images, Runner
from edgeprune.runtime.tokens import Output, TokenEncoder

__all__ = [
    "Classes",
    "Classifier",
    "Detections",
    "Detector",
    "Images",
    "Output",
    "Preprocessing",
    "Runner",
    "TokenEncoder",
    "available_devices",
    "load",
]

"""A bundle that classifies: images in, classes and their probabilities out. No torch.

classifier = load("out")
for classes in classifier("photo.jpg"): print(classes.top(5))
"""

from __future__ import annotations

from edgeprune.runtime.classes import Classes
from edgeprune.runtime.runner import Given, Images, Runner

__all__ = ["Classifier"]


class Classifier(Runner):
    """The classifier of a bundle whose graph gives logits of an image."""

    OUTPUTS = ("logits",)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.manifest.labels

    def __call__(self, images: Images, **inputs: Given) -> list[Classes]:
        """Classify B images: for each of them what it shows. It takes what `outputs` takes, and raises as it does."""
        return [Classes(logits, self.labels) for logits in self.outputs(images, **inputs)["logits"]]

"""What sensors know about an image before it is encoded, as one number, or one point, for each patch. numpy only.

A prior is a graph's input beside the image: `prior` [B, N] float32, for the N patches of `encoder.grid`, row by row.

    1 everywhere     nothing is known: the method chooses as without it
    0                masked out: kept only where the budget has no other patch left
    higher           wanted more; the scale is the sensor's, and the graph makes the image's own range of it

The count of tokens stays what it was exported with, whatever a prior says. `xyz` [B, N, 3] float32, metres, is the same
for methods that spread what they keep in space instead of over the picture; zeros where it is not known.

| what is there                      | function    | what a patch gets                                             |
| ---------------------------------- | ----------- | ------------------------------------------------------------- |
| the image's size                   | `letterbox` | 0 where it shows padding, else 1                              |
| an event camera                    | `active`    | log(1 + events since the last keyframe)                       |
| a video file, H.264 or MPEG-1/2/4  | `moving`    | the longest motion vector since the last I-frame, pixels      |
| a depth map, its camera, its pose  | `located`   | xyz: where what it shows is, the mean over its pixels         |

Sensors see the image; an encoder sees what its preprocessing makes of it: squeezed, cut, padded. `Patches` knows where
its patches lie on the image, and is made once for each size:

    encoder = edgeprune.runtime.load("out")
    patches = Patches.of((480, 640), encoder.grid, encoder.preprocessing)
    prior = as_prior([active(patches, Events.of(records), since=keyframe)], encoder.grid)

An encoder of tiles takes those of one image as a batch; `Patches.of_tiles` has the patches of each.

`as_prior` and `as_xyz` make a batch of them, and refuse what is of another grid or not finite. Priors multiply where
both are meant: `letterbox(patches) * active(patches, events)`.
"""

from edgeprune.runtime.priors.depth import Intrinsics, located
from edgeprune.runtime.priors.events import Events, active
from edgeprune.runtime.priors.inputs import as_prior, as_xyz
from edgeprune.runtime.priors.letterbox import letterbox
from edgeprune.runtime.priors.motion import Moving, moving
from edgeprune.runtime.priors.patches import Patches

__all__ = [
    "Events",
    "Intrinsics",
    "Moving",
    "Patches",
    "active",
    "as_prior",
    "as_xyz",
    "letterbox",
    "located",
    "moving",
]

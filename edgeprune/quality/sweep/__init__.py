"""What pruning loses, by method and budget: the exported graphs are run, and the language part is asked about drawn
scenes or about images of yours.

    request     what was asked for             run         which cells are needed, and who computes them
    items       images and questions           work        what a worker does: export a graph, run a shard
    variants    methods with their options     workers     this process, a pool, or Ray (`ray_workers`)
    cache       what was computed, on disk     rows        what the cells come to; `texts`, `plots` show it
    fidelity    without a language part        speed       the graphs' times

A cell is (method, tokens, precision, layer, shard of images).
"""

from edgeprune.quality.sweep.request import Request
from edgeprune.quality.sweep.rows import Row, Sweep, read
from edgeprune.quality.sweep.run import sweep
from edgeprune.quality.sweep.saving import save

__all__ = ["Request", "Row", "Sweep", "read", "save", "sweep"]

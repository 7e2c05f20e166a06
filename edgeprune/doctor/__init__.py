"""What is here, what it is good for, and what is missing: no package is imported for its version, none is trusted.

    packages    what edgeprune's own metadata asks for, beside what is installed (metadata alone, nothing is imported)
    machine     Python, memory, GPU, TensorRT, ...; what only an import can say is asked in a process of its own, so
                that one that fails, hangs or dies is a finding
    abilities   which targets can be exported for, built for and run here; what stands in the way, and the remedy

Works where nothing but edgeprune's base is installed, and where that is broken.
"""

from edgeprune.doctor.report import Report, examine

__all__ = ["Report", "examine"]

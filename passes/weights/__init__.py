"""Structured weights: what stands between a method's numbers and the nodes that carry them.

Each says what it stands for (`dense`), what it costs (`bytes`), and how it is written with standard ops (`emit`).
"""

from .affine import Affine
from .codebook import Codebook
from .corrected import Corrected
from .floating import Floating
from .half import Half
from .masked import Masked
from .planes import Planes
from .quantized import Quantized

__all__ = ["Affine", "Codebook", "Corrected", "Floating", "Half", "Masked", "Planes", "Quantized"]

"""What a change of a layer's weights costs, by the second derivative H of the drop: about e.T H e / 2.

    hessian   e.T H e ~ tr(H) / n |e|^2                     every weight of the layer counts the same
    fisher    e.T H e ~ sum of H_ii e_i^2                   the weights do not disturb each other
    output    e.T H e ~ sum over o of t_o e_o.T A e_o       t_o = tr(H_o) / tr(A)

n is the number of weights, e_o the changes of those that make output o, A the Gram matrix of the layer's inputs and H_o
the part of H between the weights of output o. `output` is the error of the layer's outputs, |X e|^2 = tr(e.T A e), each
weighed by what it does to the answers; it alone sees errors that make each other good, as GPTQ's do.

hessian: Dong et al., HAWQ-V2: Hessian Aware trace-Weighted Quantization of Neural Networks, 2020, equation 5. fisher:
LeCun et al., Optimal Brain Damage, 1990, equation 3, with the empirical Fisher information on the diagonal. output: the
layer-wise error of Frantar and Alistarh, Optimal Brain Compression, 2022, equation 1, in the units of the drop: H of a
linear layer is the mean of (x x.T) by (d d.T), d the gradients at its outputs (Martens and Grosse, Optimizing Neural
Networks with Kronecker-factored Approximate Curvature, 2015, section 3), of which the diagonal blocks are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.gram import check_gram


def hessian(error: Array, trace: float) -> float:
    """The cost of a change [in, out] of a layer's weights, of the trace of their second derivatives.

    >>> hessian(np.array([[1.0], [2.0]]), 4.0)
    5.0
    """
    wide = np.asarray(error, np.float64)
    return float(trace) * float((wide**2).mean()) / 2 if wide.size else 0.0


def fisher(error: Array, diagonal: NDArray[np.floating]) -> float:
    """The same of the second derivatives themselves, [in, out].

    >>> fisher(np.array([[1.0], [2.0]]), np.array([[1.0], [3.0]]))
    6.5
    """
    if error.shape != diagonal.shape:
        raise ValueError(f"expected a diagonal {error.shape} as the change is, found {diagonal.shape}")
    return float((np.asarray(error, np.float64) ** 2 * diagonal).sum()) / 2


def output(error: Array, traces: Floats, gram: Array | None = None) -> float:
    """The same of the traces for each output, [out], and the Gram matrix of the inputs, [in, in].

    Without one, or where it is all zeros, all inputs count the same and none are correlated. Raises ValueError for a
    matrix of another size, not finite or not symmetric, and for another number of traces.

    >>> output(np.array([[1.0], [-1.0]]), np.array([4.0]), np.array([[1.0, 1.0], [1.0, 1.0]]))
    0.0
    >>> output(np.array([[1.0], [-1.0]]), np.array([4.0]))
    2.0
    """
    wide = np.asarray(error, np.float64)
    if traces.shape != wide.shape[1:]:
        raise ValueError(f"expected a trace for each of {wide.shape[1]} outputs, found {traces.shape}")
    shape = None if gram is None else check_gram(gram, len(wide))
    total = 0.0 if shape is None else float(np.trace(shape))
    errors: Floats
    if shape is None or total <= 0:
        errors = (wide**2).mean(0) if wide.size else np.zeros(wide.shape[1])
    else:
        errors = (wide * (shape @ wide)).sum(0) / total
    return float((errors * traces).sum()) / 2

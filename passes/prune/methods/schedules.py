"""How sparsity, or the threshold below which weights go, grows as a network is trained."""

from __future__ import annotations


def cubic(step: int, *, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """The sparsity at a step: quick at first, while there is much to spare, and slow near the end.

        s = final + (initial - final) (1 - (step - start) / (end - start))^3

    `initial` before `start`, `final` from `end` on. Raises ValueError unless start < end and both are shares. Source:
    Zhu and Gupta, To Prune, or Not to Prune, 2017, equation 1.

    >>> [round(cubic(step, start=0, end=4, final=0.8), 4) for step in range(5)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8]
    """
    if not start < end:
        raise ValueError(f"expected a start before the end, found {start} and {end}")
    if not 0 <= initial <= 1 or not 0 <= final <= 1:
        raise ValueError(f"expected sparsities from 0 to 1, found {initial:g} and {final:g}")
    left = 1 - (min(max(step, start), end) - start) / (end - start)
    return final + (initial - final) * left**3


def gradual(step: int, *, start: int, ramp: int, end: int, reach: float, every: int = 1, steepen: float = 1.5) -> float:
    """The magnitude below which weights are zero at a step: two ramps, the second `steepen` times as steep.

        theta = 2 reach every / (2 (ramp - start) + 3 (end - ramp))                 slope until `ramp`
        threshold = (theta (step - start + 1)) / every                              start < step < ramp
                    (theta (ramp - start + 1) + steepen theta (step - ramp + 1)) / every      ramp <= step < end

    Zero before `start`; from `end` on it stays. reach: about what it ends at with `steepen` as it is, 1.5: the
    magnitude below which, of a network trained dense, as many weights lie as are to go. Raises ValueError unless
    start <= ramp <= end, start < end and every >= 1. Source: Narang et al., Exploring Sparsity in Recurrent Neural
    Networks, 2017, algorithm 1 and equation 1.
    """
    if not (start <= ramp <= end and start < end) or every < 1:
        raise ValueError(
            f"expected start <= ramp <= end and steps between updates, found {start}, {ramp}, {end} and {every}"
        )
    theta = 2 * reach * every / (2 * (ramp - start) + 3 * (end - ramp))
    at = min(step, end - 1)
    if at <= start:
        return 0.0
    if at < ramp:
        return theta * (at - start + 1) / every
    return (theta * (ramp - start + 1) + steepen * theta * (at - ramp + 1)) / every

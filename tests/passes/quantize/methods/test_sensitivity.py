"""The three costs of a change against their formulas, entry by entry, and where they agree with the whole."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.quantize.methods.sensitivity import fisher, hessian, output

RNG = np.random.default_rng(3)
ROWS, COLUMNS = 5, 4
ERROR = RNG.standard_normal((ROWS, COLUMNS))
INPUTS = RNG.standard_normal((30, ROWS)) @ RNG.standard_normal((ROWS, ROWS))
GRAM = INPUTS.T @ INPUTS
TRACES = RNG.random(COLUMNS)
#: Sums of so many products of numbers of a size of about ten, in float64.
CLOSE = ROWS * COLUMNS * 100 * np.finfo(np.float64).eps


def _whole(blocks: list[np.ndarray]) -> float:
    """e.T H e / 2 for a block of H for each output."""
    return sum(float(ERROR[:, o] @ blocks[o] @ ERROR[:, o]) for o in range(COLUMNS)) / 2


def test_hessian_gives_every_weight_the_mean_of_the_trace() -> None:
    blocks = [np.eye(ROWS) * TRACES.sum() / (ROWS * COLUMNS)] * COLUMNS
    assert hessian(ERROR, float(TRACES.sum())) == pytest.approx(_whole(blocks), rel=CLOSE)


def test_fisher_is_the_diagonal() -> None:
    diagonal = RNG.random((ROWS, COLUMNS))
    assert fisher(ERROR, diagonal) == pytest.approx(
        _whole([np.diag(diagonal[:, o]) for o in range(COLUMNS)]), rel=CLOSE
    )


def test_output_has_the_shape_of_the_gram_matrix_and_the_trace_of_each_output() -> None:
    blocks = [GRAM * trace / np.trace(GRAM) for trace in TRACES]
    assert output(ERROR, TRACES, GRAM) == pytest.approx(_whole(blocks), rel=CLOSE)


def test_output_is_the_error_of_the_outputs_where_all_weigh_the_same() -> None:
    traces = np.full(COLUMNS, np.trace(GRAM))
    assert output(ERROR, traces, GRAM) == pytest.approx(float(((INPUTS @ ERROR) ** 2).sum()) / 2, rel=CLOSE)


def test_without_inputs_output_is_the_hessian_of_each_output() -> None:
    wanted = sum(hessian(ERROR[:, o : o + 1], float(TRACES[o])) for o in range(COLUMNS))
    assert output(ERROR, TRACES) == pytest.approx(wanted, rel=CLOSE)
    assert output(ERROR, TRACES, np.zeros((ROWS, ROWS))) == pytest.approx(wanted, rel=CLOSE)


def test_errors_that_make_each_other_good_cost_nothing() -> None:
    twice = np.repeat(RNG.standard_normal((20, 1)), 2, axis=1)
    error = np.array([[0.5], [-0.5]])
    assert output(error, np.ones(1), twice.T @ twice) == 0.0
    assert hessian(error, 1.0) > 0


def test_nothing_changed_costs_nothing() -> None:
    none = np.zeros((ROWS, COLUMNS))
    assert hessian(none, 1.0) == fisher(none, none + 1) == output(none, TRACES, GRAM) == 0.0
    assert hessian(np.zeros((0, 3)), 1.0) == output(np.zeros((0, 3)), np.ones(3)) == 0.0


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a diagonal \(5, 4\)"):
        fisher(ERROR, np.ones(COLUMNS))
    with pytest.raises(ValueError, match="a trace for each of 4 outputs"):
        output(ERROR, np.ones(ROWS), GRAM)
    with pytest.raises(ValueError, match=r"Gram matrix \[5, 5\]"):
        output(ERROR, TRACES, np.eye(3))
    with pytest.raises(ValueError, match="NaN"):
        output(ERROR, TRACES, GRAM * np.nan)

"""Rows of real tokens, of activations laid out in every way, against a loop over the mask."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.content import Element, element
from tersor.ir.polynomial import Polynomial, product
from tersor.ir.text import graph
from tersor.passes.padding import Padding

RNG = np.random.default_rng(0)
BATCH, SEQUENCE, PAST, HEADS, WIDTH = 2, 5, 3, 4, 6
#: 1 for a real token; the sentences end, and begin, at different places.
MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]])
TOKENS = [(batch, token) for batch in range(BATCH) for token in range(SEQUENCE) if MASK[batch, token]]
NAMED: tuple[Element, ...] = ("batch", "sequence")
FIXED: tuple[Element, ...] = (BATCH, SEQUENCE)
JOINED = element(product([Polynomial.parse("batch"), Polynomial.parse("sequence")]))

Pick = Callable[[np.ndarray], list[np.ndarray]]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rows(array: np.ndarray, dims: tuple[Element, ...] | None, axis: int = -1, sizes: tuple[Element, ...] = NAMED,
         mask: np.ndarray = MASK) -> np.ndarray:  # fmt: skip
    return np.asarray(Padding({"mask": sizes}).rows(array, dims, {"mask": mask}, axis))


#: Layouts of an activation: its sizes, what is known of them, the axis of its features, and the rows that are real.
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[Element, ...], int, Pick]] = {
    "tokens last but one": (
        (BATCH, SEQUENCE, WIDTH), ("batch", "sequence", WIDTH), -1, lambda x: [x[b, t] for b, t in TOKENS]
    ),
    "sequence first": (
        (SEQUENCE, BATCH, WIDTH), ("sequence", "batch", WIDTH), -1, lambda x: [x[t, b] for b, t in TOKENS]
    ),
    "features before tokens": (
        (BATCH, WIDTH, SEQUENCE), ("batch", WIDTH, "sequence"), 1, lambda x: [x[b, :, t] for b, t in TOKENS]
    ),
    "features first": (
        (WIDTH, BATCH, SEQUENCE), (WIDTH, "batch", "sequence"), 0, lambda x: [x[:, b, t] for b, t in TOKENS]
    ),
    "heads": (
        (BATCH, HEADS, SEQUENCE, WIDTH), ("batch", HEADS, "sequence", WIDTH), -1,
        lambda x: [x[b, h, t] for b, t in TOKENS for h in range(HEADS)],
    ),
    "batch and sequence in one": (
        (BATCH * SEQUENCE, WIDTH), (JOINED, WIDTH), -1, lambda x: [x[b * SEQUENCE + t] for b, t in TOKENS]
    ),
    "a sentence each": ((BATCH, WIDTH), ("batch", WIDTH), -1, list),
    "positions that all sentences share": ((SEQUENCE, WIDTH), ("sequence", WIDTH), -1, list),
    "a batch that is one after all": ((1, SEQUENCE, WIDTH), ("batch", "sequence", WIDTH), -1, lambda x: list(x[0])),
    "unknown sizes": ((BATCH, SEQUENCE, WIDTH), (None, None, None), -1, lambda x: list(x.reshape(-1, WIDTH))),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_real_tokens_are_kept_wherever_they_lie(name: str) -> None:
    shape, dims, axis, real = LAYOUTS[name]
    array = normal(*shape)
    np.testing.assert_array_equal(rows(array, dims, axis), real(array))


def test_fixed_sizes_say_which_axes_are_the_masks() -> None:
    array = normal(BATCH, SEQUENCE, WIDTH)
    np.testing.assert_array_equal(rows(array, (BATCH, SEQUENCE, WIDTH), sizes=FIXED), [array[b, t] for b, t in TOKENS])


def test_behind_a_cache_the_last_columns_of_the_mask_are_those_of_the_new_tokens() -> None:
    sizes: tuple[Element, ...] = ("batch", element(Polynomial.parse("past + sequence")))
    mask = np.concatenate([np.array([[0, 0, 1], [1, 1, 0]]), MASK], axis=1)
    array = normal(BATCH, SEQUENCE, WIDTH)
    found = rows(array, ("batch", "sequence", WIDTH), sizes=sizes, mask=mask)
    np.testing.assert_array_equal(found, [array[b, t] for b, t in TOKENS])
    whole = normal(BATCH, PAST + SEQUENCE, WIDTH)
    found = rows(whole, ("batch", sizes[1], WIDTH), sizes=sizes, mask=mask)
    np.testing.assert_array_equal(found, [whole[b, t] for b, t in np.argwhere(mask)])


def test_a_number_is_a_row_of_one() -> None:
    assert rows(np.array(3.0), ()).tolist() == [[3.0]]


def test_without_a_mask_all_is_real() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[batch, sequence, 6]", "mask": "int64[batch, sequence]"})
    padding = Padding.of(model)
    assert not padding.masks, "nothing is left out by it"
    array = normal(BATCH, SEQUENCE, WIDTH)
    np.testing.assert_array_equal(
        padding.rows(array, ("batch", "sequence", WIDTH), {"mask": MASK}), array.reshape(-1, WIDTH)
    )

"""Axes as leaves, products and sums: what ties refine them to, and what does not fit is held."""

from __future__ import annotations

import numpy as np
from tersor.ir.axes.axis import Axis, Why, cut, kept, length, places, product, split, sum_of, tie
from tersor.ir.polynomial import Polynomial


def sizes(*numbers: int) -> list[Polynomial]:
    return [Polynomial.of(number) for number in numbers]


def test_an_axis_split_twice_has_the_factors_of_both() -> None:
    axis = Axis(384)
    split(axis, sizes(12, 32))
    split(axis, sizes(6, 64))
    assert repr(axis) == "(6 * 2 * 32)"


def test_ones_are_no_factors() -> None:
    axis = Axis(12)
    one, whole, other = split(axis, sizes(1, 12, 1)) or []
    assert whole.root() is axis.root()
    assert tie(whole, axis)
    assert [repr(each) for each in (one, axis, other)] == ["1", "12", "1"]
    assert list(axis.leaves()) == [axis]


def test_factors_that_do_not_divide_are_refused() -> None:
    axis = Axis(12)
    split(axis, sizes(4, 3))
    assert split(axis, sizes(3, 4)) is None


def test_a_tie_refines_both_sides() -> None:
    one, other = Axis(24), Axis(24)
    split(one, sizes(4, 6))
    split(other, sizes(12, 2))
    assert tie(one, other)
    assert [repr(axis) for axis in (one, other)] == ["(4 * 3 * 2)"] * 2
    assert list(one.leaves()) == list(other.leaves())


def test_pieces_refine_each_other() -> None:
    one, other = Axis(10), Axis(10)
    cut(one, sizes(4, 6))
    cut(other, sizes(2, 8))
    assert tie(one, other)
    assert repr(one) == "(2 + 2 + 6)"


def test_pieces_of_a_product_are_cut_along_its_first_factor() -> None:
    axis = Axis(20)
    split(axis, sizes(5, 4))
    first, second = cut(axis, sizes(8, 12)) or ()
    assert (repr(first), repr(second), repr(axis)) == ("(2 * 4)", "(3 * 4)", "((2 + 3) * 4)")


def test_a_sum_whose_pieces_all_divide_is_a_product() -> None:
    axis = Axis(20)
    cut(axis, sizes(8, 12))
    assert [part.count for part in split(axis, sizes(5, 4)) or ()] == [5, 4]
    assert repr(axis) == "((2 + 3) * 4)"


def test_equal_pieces_are_one_of_several() -> None:
    axis = Axis(12)
    pieces = cut(axis, sizes(4, 4, 4)) or []
    number, size = split(axis, sizes(3, 4)) or ()
    assert repr(number) == "(1 + 1 + 1)"
    assert {leaf for piece in pieces for leaf in piece.leaves() if leaf.count != 1} == {size.root()}


def test_what_does_not_fit_is_held() -> None:
    one, other = Axis(12), Axis(12)
    split(one, sizes(4, 3))
    split(other, sizes(3, 4))
    assert not tie(one, other)
    assert all(leaf.holds for axis in (one, other) for leaf in axis.leaves())


def test_sizes_that_differ_are_held() -> None:
    one, other = Axis(12), Axis(13)
    assert not tie(one, other)
    assert one.holds
    assert other.holds


def test_holds_and_ties_reach_parts_that_are_found_later() -> None:
    axis, beside = Axis(12), Axis(12)
    axis.hold(Why.OUTPUT, "y")
    tie(axis, beside)
    split(beside, sizes(4, 3))
    assert [leaf.holds[0].where for leaf in axis.leaves()] == ["y", "y"]


def test_what_stays_of_parts_stays_of_the_whole() -> None:
    axis = Axis(12)
    heads, size = split(axis, sizes(3, 4)) or ()
    keep = {heads: np.array([True, False, True])}
    assert np.flatnonzero(kept(axis, keep)).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert length(axis, keep).constant == 8
    inner = {size: np.array([True, False, False, True])}
    assert np.flatnonzero(kept(axis, inner)).tolist() == [0, 3, 4, 7, 8, 11]


def test_a_leaf_that_stands_twice_is_cut_twice() -> None:
    piece = Axis(3)
    joined = sum_of([piece, Axis(2), piece])
    assert np.flatnonzero(kept(joined, {piece: np.array([False, True, True])})).tolist() == [1, 2, 3, 4, 6, 7]


def test_places_are_of_a_leaf_unless_they_are_of_two() -> None:
    leaf, other = Axis(3), Axis(2)

    def listed(axis: Axis) -> list[int] | None:
        found = places(axis, leaf)
        return None if found is None else found.tolist()

    assert listed(product([leaf, other])) == [0, 0, 1, 1, 2, 2]
    assert listed(sum_of([leaf, other, leaf])) == [0, 1, 2, -1, -1, 0, 1, 2]
    assert listed(other) == [-1, -1]
    assert listed(product([leaf, leaf])) is None
    assert listed(sum_of([other, product([leaf, other, leaf])])) is None


def test_dynamic_factors_are_factors() -> None:
    batch, heads = Axis(Polynomial.of("batch")), Axis(4)
    joined = product([batch, heads])
    parts = split(joined, [Polynomial.of("batch"), Polynomial.of(4)]) or []
    assert [part.root() for part in parts] == [batch, heads]
    assert str(length(joined, {heads: np.array([True, True, False, False])})) == "2*batch"

"""Polynomials compute as numbers do: every identity is checked by putting numbers in."""

from __future__ import annotations

import pytest
from tersor.ir.polynomial import Polynomial, product, total

N, M = Polynomial.of("n"), Polynomial.of("m")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (N + 1, "n + 1"),
        (2 * N - 3, "2*n - 3"),
        (1 - N, "-n + 1"),
        ((N + M) * (N - M), "-m*m + n*n"),
        (N - N, "0"),
        (N * M * 4 // (M * 2), "2*n"),
        ((N + 1) * 6 // 3, "2*n + 2"),
        (N // 2, "(n//2)"),
        ((N + 1) // (N + 1), "1"),
        (M * (N + 1) * 12 // ((N + 1) * 4), "3*m"),
        ((N + M) * (N + M + 1) // (N + M), "m + n + 1"),
        ((N * N + 1) // (N + 1), "((n*n + 1)//(n + 1))"),
        ((N + M) * 3 // ((N + M) * 2), "((3*m + 3*n)//(2*m + 2*n))"),
        ((N + 1) // 2 * 2, "2*((n + 1)//2)"),
        (Polynomial.of(7) // 2, "3"),
        (total([N, M, N]), "m + 2*n"),
        (product([N, M, Polynomial.of(3)]), "3*m*n"),
        (total([]), "0"),
    ],
)
def test_arithmetic(found: Polynomial, text: str) -> None:
    assert str(found) == text


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("m", [1, 4])
def test_numbers_put_in_early_or_late_give_the_same(n: int, m: int) -> None:
    def formula(a: Polynomial, b: Polynomial) -> Polynomial:
        return ((a * 3 + b) // 2 - b * b) * (a + 7) // (b * 2)

    early = formula(Polynomial.of(n), Polynomial.of(m))
    assert int(formula(N, M).at({"n": n, "m": m})) == int(early) == ((n * 3 + m) // 2 - m * m) * (n + 7) // (m * 2)


def test_partial_evaluation_keeps_what_is_open() -> None:
    assert str((N * M + M // 2).at({"n": 3})) == "(m//2) + 3*m"
    assert (N * M + M // 2).names == {"n", "m"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sequence", Polynomial.of("sequence")),
        ("past + sequence", Polynomial.of("past") + Polynomial.of("sequence")),
        ("2*(n - 1)", 2 * N - 2),
        ("n//2", N // 2),
        ("-n + 4", 4 - N),
        ("Max(n, 1)", Polynomial.of("Max(n, 1)")),
        ("a/b_dim_0", Polynomial.of("a/b_dim_0")),
        ("1.5", Polynomial.of("1.5")),
    ],
)
def test_reads_what_exporters_write(text: str, found: Polynomial) -> None:
    assert Polynomial.parse(text) == found


def test_equal_by_value() -> None:
    assert N + M == M + N and hash(N + M) == hash(M + N)
    assert Polynomial.of(3) == 3 and N != 3 and N != "n"
    assert bool(N) and not Polynomial.of(0)


def test_a_number_only_when_it_is_one() -> None:
    assert (int(Polynomial.of(3)), float(Polynomial.of(3)), f"{Polynomial.of(3000):,}") == (3, 3.0, "3,000")
    assert (Polynomial.of(0).constant, N.constant, f"{N:,}") == (0, None, "n")
    with pytest.raises(ValueError, match=r"n \+ 1 is no number: give sizes for n"):
        int(N + 1)

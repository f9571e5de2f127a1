"""TfIdfVectorizer: how often each n-gram of a list occurs in each row."""

from __future__ import annotations

import functools

import numpy as np
import torch


def tf_idf_vectorizer(
    x: np.ndarray | torch.Tensor,
    *,
    max_gram_length: int,
    max_skip_count: int,
    min_gram_length: int,
    mode: str,
    ngram_counts: tuple[int, ...],
    ngram_indexes: tuple[int, ...],
    pool_int64s: tuple[int, ...] = (),
    pool_strings: tuple[str, ...] = (),
    weights: tuple[float, ...] = (),
) -> torch.Tensor:
    """[tokens] -> [columns], [batch, tokens] -> [batch, columns], in float32.

    An n-gram's tokens lie 1, 2, ... `max_skip_count` + 1 apart; single tokens are counted once. `mode` is TF (counts),
    IDF (the column's weight where the n-gram occurs) or TFIDF (their product). Weights go by column, as ONNX Runtime
    and the reference evaluator have it. Raises ValueError for another mode.
    """
    if mode not in ("TF", "IDF", "TFIDF"):
        raise ValueError(f"mode is {mode!r}; ONNX has TF, IDF and TFIDF")
    pool = pool_strings or pool_int64s
    codes = _codes(x, pool)
    rows = codes if codes.dim() == 2 else codes.reshape(1, -1)
    counts = torch.zeros(rows.shape[0], max(ngram_indexes) + 1, device=rows.device)
    for n, levels, columns in _grams(pool, ngram_counts, ngram_indexes, min_gram_length, max_gram_length):
        target = torch.tensor((*columns, -1), device=rows.device)
        for skip in range(1, 2 if n == 1 else max_skip_count + 2):
            width = rows.shape[1] - skip * (n - 1)
            if width <= 0:
                break
            state = rows[:, :width]
            for k, level in enumerate(levels, start=1):
                state = _next(state, rows[:, skip * k : skip * k + width], level, len(pool) + 1)
            column = target[state]
            counts.scatter_add_(1, column.clamp(min=0), (column >= 0).to(counts.dtype))
    if mode != "TF" and weights:
        scale = torch.tensor(weights, device=rows.device)
        counts = counts * scale if mode == "TFIDF" else (counts > 0) * scale
    elif mode == "IDF":
        counts = (counts > 0).to(counts.dtype)
    return counts if codes.dim() == 2 else counts.reshape(-1)


def _codes(x: np.ndarray | torch.Tensor, pool: tuple[int, ...] | tuple[str, ...]) -> torch.Tensor:
    """Each token's place among the pool's, the pool's length where it is not there."""
    places = _places(pool)
    if isinstance(x, np.ndarray):
        found = [places.get(text, len(pool)) for text in x.ravel().tolist()]
        return torch.tensor(found, dtype=torch.int64).reshape(x.shape)
    known, order = torch.tensor(list(places), device=x.device).sort()
    tokens = x.long()
    at = torch.searchsorted(known, tokens.contiguous()).clamp(max=len(known) - 1)
    codes = torch.tensor(list(places.values()), device=x.device)[order]
    return torch.where(known[at] == tokens, codes[at], len(pool))


@functools.lru_cache(maxsize=32)
def _places(pool: tuple[int, ...] | tuple[str, ...]) -> dict[int | str, int]:
    tokens: list[int | str] = list(pool)
    return {token: i for i, token in reversed(list(enumerate(tokens)))}


Gram = tuple[int, tuple[tuple[int, ...], ...], tuple[int, ...]]
"""The length of some n-grams; per token but the first, the known pairs of state and token in order; per state the
column it counts for. A state is the place of a pair, or of a token in the pool; the last means unknown."""


@functools.lru_cache(maxsize=32)
def _grams(
    pool: tuple[int, ...] | tuple[str, ...], starts: tuple[int, ...], indexes: tuple[int, ...], least: int, most: int
) -> list[Gram]:
    places, base = _places(pool), len(pool) + 1
    grams: list[Gram] = []
    taken = 0
    for n, (start, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), start=1):
        rows = [[places[token] for token in pool[i : i + n]] for i in range(start, end, n)]
        columns = indexes[taken : taken + len(rows)]
        taken += len(rows)
        if not rows or not least <= n <= most:
            continue
        states, known, levels = [row[0] for row in rows], len(pool), []
        for k in range(1, n):
            pairs = [state * base + row[k] for state, row in zip(states, rows, strict=True)]
            level = sorted(set(pairs))
            found = {pair: i for i, pair in enumerate(level)}
            states, known = [found[pair] for pair in pairs], len(level)
            levels.append(tuple(level))
        column = dict(zip(states, columns, strict=True))
        grams.append((n, tuple(levels), tuple(column.get(state, -1) for state in range(known))))
    return grams


def _next(state: torch.Tensor, token: torch.Tensor, level: tuple[int, ...], base: int) -> torch.Tensor:
    known = torch.tensor(level, device=state.device)
    pair = state * base + token
    at = torch.searchsorted(known, pair).clamp(max=len(level) - 1)
    return torch.where(known[at] == pair, at, len(level))

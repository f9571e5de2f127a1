"""Feeds and answers after passes that cut the vocabulary: what was recorded before them, in the terms of the model now.

Answers to feeds with trimmed tokens are no standard to hold a contract against: there the original is asked again, with
unknown tokens in their place. The quality of real data is read against the answers to the data as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir

from ..ir.feeds import Feeds
from ..passes.renumbering import Renumbering
from .data import Split
from .original import Original, Recorded, record

Cuts = Sequence[Renumbering]


def feeds_after(split: Split, cuts: Cuts) -> Split:
    """The data as the model takes them now; the note counts the tokens that it does not know any more."""
    for cut in cuts:
        count, total = cut.trimmed([*split.calibration, *split.quality])
        note = f"{split.note}; {count:,} of {total:,} tokens are trimmed, and read as unknown" if count else split.note
        calibration = _feeds(cut, split.calibration)
        # one batch may be both
        quality = calibration if split.quality is split.calibration else _feeds(cut, split.quality)
        split = replace(split, calibration=calibration, quality=quality, note=note)
    return split


def recorded_after(recorded: Recorded, cuts: Cuts, original: onnx_ir.Model, *, promised: bool) -> Recorded:
    """What the original answered; `promised`: to feeds in which unknown stands for what is trimmed."""
    for cut in cuts:
        if promised and cut.trimmed(recorded.feeds)[0]:
            asked = [cut.known(feeds) for feeds in recorded.feeds]
            recorded = replace(record(Original(original), asked), coarse=recorded.coarse)
        recorded = replace(
            recorded,
            feeds=[cut.feeds(feeds) for feeds in recorded.feeds],
            answers=[cut.answers(answers) for answers in recorded.answers],
        )
        original = cut.reference(original)
    return recorded


def _feeds(cut: Renumbering, batches: Sequence[Feeds]) -> Sequence[Feeds]:
    return [cut.feeds(batch) for batch in batches] if cut.renumbered else batches

"""CUDA graphs: a run recorded once for each set of input shapes and replayed from then on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

#: Recordings kept, the latest used; each holds the memory of one run.
MOST = 16

_WARM_UP = 3


@dataclass(frozen=True)
class Recording:
    """One captured run: where it reads its inputs from and where it leaves its outputs."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[torch.Tensor, ...]
    outputs: Sequence[torch.Tensor]


class Replayed:
    """`call`, replayed as a CUDA graph. The outputs are overwritten by the next run: copy what is to stay."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._recordings: OrderedDict[tuple[torch.Size, ...], Recording] = OrderedDict()

    def __call__(self, *inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        shapes = tuple(tensor.shape for tensor in inputs)
        recording = self._recordings.get(shapes)
        if recording is None:
            recording = self._recordings[shapes] = self._record(inputs)
            if len(self._recordings) > MOST:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(shapes)
        for held, given in zip(recording.inputs, inputs, strict=True):
            held.copy_(given)
        recording.graph.replay()
        return recording.outputs

    def _record(self, inputs: Sequence[torch.Tensor]) -> Recording:
        held = tuple(tensor.clone() for tensor in inputs)
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._call(*held)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = self._call(*held)
        row = [results] if isinstance(results, torch.Tensor) else results
        assert isinstance(row, list | tuple)
        return Recording(graph, held, row)

"""What torch computes as a session, eagerly or compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from ..ir.feeds import Array, Feeds
from ..ir.fx.dtypes import to_numpy, to_torch
from .base import Interface, Session


class TorchSession(Session):
    """Calls `call` with the interface's inputs in order, without gradients.

    torch has one number of threads for the whole process: `threads` is set for the time of a run and put back after
    it; 0 leaves it alone. `weights` are what `call` may return as they are; a caller gets copies of them.
    """

    def __init__(
        self,
        call: Callable[..., object],
        interface: Interface,
        *,
        device: str,
        threads: int,
        weights: Iterable[torch.Tensor] = (),
    ) -> None:
        super().__init__(interface)
        self._call = call
        self._device = torch.device(device)
        self._threads = threads
        self._outputs = [(port.name, port.dtype) for port in interface.signature.outputs]
        self._weights = {_memory(tensor) for tensor in weights}

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        inputs = [to_torch(feeds[port.name]) for port in self.interface.signature.inputs]
        with _threads(self._threads), torch.inference_mode():
            results = self._call(*(tensor.to(self._device) for tensor in inputs))
            row = [results] if isinstance(results, torch.Tensor) else list(_sequence(results))
            given = self._weights.union(map(_memory, inputs))
            owned = (tensor.clone() if _memory(tensor) in given else tensor for tensor in row)
            return {name: to_numpy(tensor, dtype) for (name, dtype), tensor in zip(self._outputs, owned, strict=True)}


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """torch's thread count is the process's: sessions that run at one time in several threads share it."""
    before = torch.get_num_threads()
    if wanted in (0, before):
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _memory(tensor: torch.Tensor) -> int:
    """Where a tensor's numbers lie. What lies where inputs or weights do is copied before a caller gets it."""
    return tensor.untyped_storage().data_ptr()


def _sequence(results: object) -> Sequence[torch.Tensor]:
    assert isinstance(results, list | tuple)
    return results

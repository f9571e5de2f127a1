"""A compiled OpenVINO model as a session."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from ...ir.errors import ModelError, UnsupportedError
from ...ir.feeds import Array, Feeds
from ..base import Interface, Session

if TYPE_CHECKING:
    import openvino


class OpenVinoSession(Session):
    """Runs on OpenVINO's CPU plugin. Threads may share it: a run waits for one of as many requests as pay off."""

    def __init__(self, path: Path, properties: Mapping[str, str], interface: Interface) -> None:
        """Compile the IR at `path` (an .xml). Raises ModelError for damaged files, UnsupportedError for what the CPU
        plugin has no kernel for."""
        super().__init__(interface)
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be read: {first_lines(error)}; compile the model again") from error
        try:
            self._compiled = core.compile_model(model, "CPU", dict(properties))
        except RuntimeError as error:
            raise UnsupportedError(f"openvino: {path} cannot be compiled for the CPU: {first_lines(error)}") from error
        self._ports = _ports(self._compiled, interface)
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()
        # Made here and not when they are needed: making one while another runs can block both for good.
        for _ in range(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            self._idle.put(self._compiled.create_infer_request())

    def run_unchecked(self, feeds: Feeds) -> dict[str, Array]:
        request = self._idle.get()
        try:
            request.infer(dict(feeds), share_inputs=True)
            return {name: _array(request.get_output_tensor(port)) for name, port in self._ports.items()}
        finally:
            self._idle.put(request)


def _array(tensor: openvino.Tensor) -> Array:
    """A copy of what a tensor holds. OpenVINO shows the bits of bfloat16 as float16."""
    array = np.array(tensor.data)
    return array.view(ml_dtypes.bfloat16) if tensor.get_element_type().get_type_name() == "bf16" else array


def first_lines(error: Exception) -> str:
    """What OpenVINO says went wrong, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "FrontEnd API"))]
    return "; ".join(told[:4]) or type(error).__name__


def _ports(compiled: openvino.CompiledModel, interface: Interface) -> dict[str, int]:
    """Output name -> its place among the outputs of the compiled model."""
    places = {name: place for place, port in enumerate(compiled.outputs) for name in port.get_names()}
    wanted = [port.name for port in interface.signature.outputs]
    lost = [name for name in wanted if name not in places]
    if lost:
        raise ModelError(f"the compiled model has no output {lost[0]!r}, it has {', '.join(sorted(places))}")
    return {name: places[name] for name in wanted}

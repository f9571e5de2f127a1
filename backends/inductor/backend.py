"""TorchInductor: a model as machine code, for the CPU or for CUDA."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import onnx_ir as ir

from ...ir.dimensions import names
from ...ir.errors import ModelError, OptionError, TersorError, UnsupportedError
from ...ir.level import Signature
from ..base import Interface, Session
from ..torch_base import TorchBackend
from .fingerprint import Machine
from .sizes import Sizes

if TYPE_CHECKING:
    import torch

PROGRAM = "model.pt2"
RUNTIME = "runtime.json"

#: For integer products that overflow on other CPUs, in the compiler's spelling.
_VNNI = "-mavx512vnni -mavxvnni -mamx-int8"

_AGAIN = "recompile with `tersor compile ... --target inductor` here"


@dataclass(frozen=True, kw_only=True)
class Inductor(TorchBackend):
    """TorchInductor ahead of time: C++ for the CPU, Triton for CUDA; compiling takes a C++ compiler and a minute.

    max_autotune: time several kernels for each product and keep the fastest; compiling takes twice as long, for CUDA
        much longer. Where it is not given: for the CPU, where `freeze` is on.
    cuda_graphs: record a run for each set of input shapes and replay it; for CUDA.
    freeze: lay weights out as this machine's kernels read them, and multiply integers where the model quantizes with
        constant scales (CPU). Elsewhere the package still runs, but slower.
    isa: vector instructions to generate; `avx2` gives a package for other x86 CPUs than this one.
    sizes: what to tune for, 2 or more and none twice, as in `[batch=32, sequence=64]`; every other size in range runs
        as well.
    passes: rewrites of the exported graph as `module:function`, each called with a torch.fx.GraphModule of aten
        operators, which it changes in place or replaces by what it returns.
    """

    name: ClassVar[str] = "inductor"
    quick: ClassVar[bool] = False
    max_autotune: bool | None = None
    cuda_graphs: bool = False
    freeze: bool = True
    isa: Literal["auto", "avx2", "avx512"] = "auto"
    sizes: tuple[str, ...] = ()
    passes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuda_graphs and self.device == "cpu":
            raise OptionError("inductor: option cuda_graphs is for device=cuda")
        self._sizes()

    @classmethod
    def obstacle(cls) -> tuple[str, str] | None:
        from . import aoti

        if aoti.compiler() is not None:
            return None
        return "no C++ compiler to compile with; packages still open", "apt-get install g++, or set CXX to a compiler"

    def write(self, model: ir.Model, folder: Path) -> None:
        """Write `model.pt2`, which `torch._inductor.aoti_load_package(path)` runs without tersor, and `runtime.json`:
        the device, the names of inputs and outputs, and what the package needs of a machine.

        Raises UnsupportedError where torch.export cannot express the model, where there is no C++ compiler, and where
        Inductor fails; PassError for one of `passes`.
        """
        from ...ir.fx.export import ExportError, export
        from ...ir.fx.kernels.constants import fold_masks
        from ...ir.fx.kernels.packed import pack_weights
        from ...ir.fx.kernels.products import has_vnni
        from ...ir.fx.kernels.qdq import lower_qdq
        from . import aoti
        from .rewrite import rewritten

        self._check_device()
        settings, sizes = self._settings(), self._sizes()
        for name in sizes:
            if name not in names(model):
                raise OptionError(f"inductor: option sizes: the model has no dimension {name!r}; {_known(model)}")
        module = self._module(model)
        fold_masks(module)
        lacking = self.obstacle()
        if lacking is not None:
            raise UnsupportedError(f"inductor: {'; '.join(lacking)}")
        integers = lower_qdq(module) if self.device == "cpu" and self.freeze else 0
        pack_weights(module)

        def again(rewrite: torch.fx.GraphModule) -> torch.export.ExportedProgram:
            rewrite.meta["inputs"] = module.meta["inputs"]
            return export(model, rewrite, sizes, complete=False)

        try:
            # a package says at each run which sizes it takes
            program = export(model, module, sizes, complete=False)
            program = rewritten(program, again, self.passes, check=self.device == "cpu")
        except ExportError as error:
            raise UnsupportedError(
                f"inductor compiles what torch.export can express, and that is not this model: {error}; "
                "use the target torch, which falls back to model.onnx, or onnxruntime"
            ) from error
        try:
            vectors, flags = self._vectors(settings)
            needs = Machine.here(self.device).needed(vectors, f"{flags} {_VNNI}" if integers and has_vnni() else flags)
            conditions = aoti.conditions(program)
            Sizes(conditions, Signature.of(model))
            aoti.package(self._placed(program), folder / PROGRAM, settings)
        except TersorError:
            raise
        except Exception as error:  # Inductor raises whatever its own code or the compilers do
            raise UnsupportedError(f"inductor cannot compile the model: {_reason(error)}") from error
        runtime = {
            "program": PROGRAM,
            "device": self.device,
            "inputs": list(module.meta["inputs"]),
            "outputs": list(module.meta["outputs"]),
            "conditions": conditions,
            "needs": needs.to_dict(),
        }
        (folder / RUNTIME).write_text(json.dumps(runtime, indent=2) + "\n", encoding="utf-8")

    def open(self, folder: Path, interface: Interface) -> Session:
        """A session over a package. No compiler is needed, and every size in range runs.

        Raises ModelError for damaged files, UnsupportedError where the package was compiled for another machine.
        """
        from ..torch_session import TorchSession
        from . import aoti

        self._check_device()
        runtime = _runtime(folder)
        if runtime.get("device") != self.device:
            raise UnsupportedError(
                f"inductor: {folder} was compiled for device={runtime.get('device')}, opened with device={self.device}"
            )
        needs = Machine.read(runtime.get("needs"), folder / RUNTIME)
        unmet = needs.unmet(Machine.here(self.device))
        if unmet:
            raise UnsupportedError(f"inductor: {folder} does not run on this machine: {'; '.join(unmet)}; {_AGAIN}")
        sizes = _sizes(runtime, interface, folder / RUNTIME)
        try:
            # other bytes than were written would end the process
            with zipfile.ZipFile(folder / PROGRAM) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"{damaged} in it is not as it was written")
            loaded = aoti.load(folder / PROGRAM, single_threaded=self.cuda_graphs)
        except Exception as error:
            raise ModelError(f"{folder / PROGRAM} cannot be loaded: {_first_line(error)}; {_AGAIN}") from error
        call = _packed(loaded, sizes)
        if self.cuda_graphs:
            from .graphs import Replayed

            call = Replayed(call)
        return TorchSession(call, interface, device=self.device, threads=self.threads)

    def needs(self, folder: Path) -> dict[str, object]:
        found = _runtime(folder).get("needs")
        return dict(found) if isinstance(found, dict) else {}

    def _sizes(self) -> dict[str, int]:
        """`sizes` as a mapping."""
        found: dict[str, int] = {}
        for item in self.sizes:
            name, _, size = item.partition("=")
            if not name.strip() or not size.strip().isdigit():
                raise OptionError(f"inductor: option sizes is a list like [batch=32, sequence=64]; found {item!r}")
            if int(size) < 2:
                # what runs at 0 or 1 torch.export takes for fixed
                raise OptionError(f"inductor: option sizes needs sizes of 2 or more; found {item!r}")
            if int(size) in found.values():
                # torch.export takes sizes that are equal in its example for one
                raise OptionError(f"inductor: option sizes needs sizes that differ; found {size.strip()} twice")
            found[name.strip()] = int(size)
        return found

    def _settings(self) -> dict[str, bool | int | str]:
        """What Inductor is told."""
        tuned = self.max_autotune
        if tuned is None:
            # oneDNN alone, which frozen weights go to, loses to plain products at many rows
            tuned = self.freeze and self.device == "cpu"
        settings: dict[str, bool | int | str] = {
            "freezing": self.freeze,
            "max_autotune": tuned,
            # kernels ask for the number of threads when they run; with one thread they are plain loops
            "cpp.dynamic_threads": self.threads != 1,
            # the vector instructions alone, not all that this CPU has
            "cpp.march": "",
            # no names of this machine's folders in the code
            "aot_inductor.enable_line_tables": False,
        }
        if self.threads:
            settings["cpp.threads"] = self.threads
        if self.isa != "auto":
            settings["cpp.simdlen"] = {"avx2": 256, "avx512": 512}[self.isa]
        return settings

    def _vectors(self, settings: dict[str, bool | int | str]) -> tuple[str, str]:
        from . import aoti

        name, flags = aoti.vector_extension(settings)
        if self.isa != "auto" and not name.startswith(self.isa):
            raise UnsupportedError(f"inductor: option isa={self.isa}: Inductor finds no {self.isa} on this machine")
        return name, flags


def _packed(loaded: Callable[[list[torch.Tensor]], list[torch.Tensor]], sizes: Sizes) -> Callable[..., object]:
    """The function, for inputs of any strides, which the code reads as contiguous; sizes that it does not take are a
    ModelError."""

    def call(*inputs: torch.Tensor) -> object:
        sizes.check(tuple(tensor.shape for tensor in inputs))
        return loaded([tensor.contiguous() for tensor in inputs])

    return call


def _known(model: ir.Model) -> str:
    return f"it has {', '.join(names(model)) or 'none that varies'}"


def _runtime(folder: Path) -> dict[str, object]:
    path = folder / RUNTIME
    if not path.is_file() or not (folder / PROGRAM).is_file():
        raise ModelError(f"{folder} is no artifact for inductor: expected {PROGRAM} and {RUNTIME} in it")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} cannot be read ({error}): compile the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path} is not what tersor writes: compile the model again")
    return found


def _sizes(runtime: dict[str, object], interface: Interface, path: Path) -> Sizes:
    """The conditions on sizes of a package."""
    stored = runtime.get("conditions")
    if not isinstance(stored, list):
        raise ModelError(f"{path} does not say which sizes the package takes: compile the model again")
    try:
        return Sizes([str(condition) for condition in stored], interface.signature)
    except ValueError as error:
        raise ModelError(f"{path}: {error}: compile the model again") from error


def _reason(error: Exception) -> str:
    """The first line, and which op it was about, which Inductor names below it."""
    target = next((line.strip() for line in str(error).splitlines() if line.strip().startswith("target: ")), "")
    return " ".join(filter(None, (_first_line(error).rstrip(": "), target and f"at {target.removeprefix('target: ')}")))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]

"""torch's ahead-of-time compiler: every private name of torch that this backend uses. Tried with torch 2.13."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

#: A size in a guard of torch.export: L['x'].size()[0]
_SIZE = re.compile(r"L\['(\w+)'\]\.size\(\)\[(\d+)\]")

Settings = Mapping[str, bool | int | str]


def compiler() -> str | None:
    """The C++ compiler that Inductor calls (`CXX`, else g++, on macOS clang++), None where it is not there."""
    return shutil.which(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++"))


def package(program: torch.export.ExportedProgram, path: Path, settings: Settings) -> None:
    """Compile a program into the package `path`, a .pt2 file. Raises whatever Inductor raises.

    Settings that this version of torch does not know are left out.
    """
    from torch._inductor import aot_compile
    from torch._inductor.package.package import package_aoti

    # torch's own cache would keep a copy of the weights for every compile
    with tempfile.TemporaryDirectory(prefix="tersor-") as folder, _quiet(), torch.no_grad():
        options = {**_known(settings), "aot_inductor.package": True, "aot_inductor.output_path": folder}
        args, kwargs = program.example_inputs or ((), {})
        files = aot_compile(program.module(check_guards=False), args, kwargs, options=options)
        assert isinstance(files, list)
        # the sources, which name folders of this machine, are not read again
        package_aoti(str(path), [file for file in files if not str(file).endswith(".cpp")])


def conditions(program: torch.export.ExportedProgram) -> list[str]:
    """What the program takes for granted of its inputs' sizes, as text over `shapes[input][axis]`.

    Raises ValueError for a condition on anything else.
    """
    names = program.graph_signature.user_inputs
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    found: dict[str, None] = {}
    for place, node in enumerate(inputs):
        for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
            limit = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            low, high = (str(limit.lower), str(limit.upper)) if limit is not None else ("", "")
            # 2 stands for any smallest size
            found |= {f"shapes[{place}][{axis}] >= {low}": None} if low.isdigit() and int(low) > 2 else {}
            found |= {f"shapes[{place}][{axis}] <= {high}": None} if high.isdigit() else {}
    # the guards have the names that the exported function's arguments had
    (top, *_) = program.module_call_graph
    assert top.signature is not None
    places = {name: place for place, name in enumerate(top.signature.forward_arg_names or ())}
    for guard in program._guards_code:
        text = _SIZE.sub(lambda size: f"shapes[{places.get(size[1])}][{size[2]}]", guard)
        found[text.replace("\n", " ")] = None
    return list(found)


def load(path: Path, *, single_threaded: bool = False) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """The function that a package holds, from its inputs to its outputs; it empties the list that it is given.

    `aoti_load_package` does this after it ran the C++ compiler, to learn what this machine is. Raises whatever torch
    raises where the package cannot be loaded.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", single_threaded, 1, -1)
    return loader.boxed_run


def vector_extension(settings: Settings) -> tuple[str, str]:
    """Name of the vector instructions that Inductor generates for this CPU, and the compiler flags for them.

    Its code is built for those alone where it can be told to; else (`native`) for all that this CPU has.
    """
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    known = _known(settings)
    with config.patch({name: value for name, value in known.items() if name.startswith("cpp.")}):
        chosen = pick_vec_isa()
        flags = chosen.build_arch_flags() if chosen else ""
        return str(chosen) if chosen else "none", flags if "cpp.march" in known else f"{flags} -march=native"


def _known(settings: Settings) -> dict[str, bool | int | str]:
    from torch._inductor import list_options

    options = set(list_options())
    return {name: value for name, value in settings.items() if name in options}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch warns of what its own code does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

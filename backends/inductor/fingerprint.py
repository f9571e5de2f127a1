"""What a package of machine code runs on, and what is in its way on another machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ...ir.errors import ModelError

_CPUINFO = Path("/proc/cpuinfo")

#: The starts of the CPU flags that `-march=native` turns into instructions.
_INSTRUCTIONS = (
    *("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "abm", "adx", "movbe", "popcnt", "aes", "pclmul", "sha_ni"),
    *("vaes", "vpclmul", "gfni", "rdrand", "rdseed", "clflushopt", "clwb", "fsgsbase", "xsave"),
    *("asimd", "sve", "i8mm", "bf16", "crc32", "atomics", "fphp", "fcma", "lrcpc"),
)

#: Where gcc's name of an instruction set is not the kernel's.
_SPELLED = {
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine, or what code compiled on one needs of another.

    torch, cuda: versions; cuda, gpu and capability ("9.0") are None where only the CPU is used.
    vectors: the vector instructions that code is generated for, `avx2`; None for a machine.
    features: CPU flags; None where they cannot be read, which leaves them unchecked.
    """

    torch: str
    system: str
    machine: str
    vectors: str | None = None
    features: tuple[str, ...] | None = None
    cuda: str | None = None
    gpu: str | None = None
    capability: str | None = None

    @classmethod
    def here(cls, device: Literal["cpu", "cuda"]) -> Machine:
        """This machine."""
        import torch

        version = str(torch.__version__).partition("+")[0]
        found = cls(torch=version, system=platform.system(), machine=platform.machine(), features=cpu_flags())
        if device == "cpu":
            return found
        major, minor = torch.cuda.get_device_capability()
        gpu = {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name(), "capability": f"{major}.{minor}"}
        return cls(**{**asdict(found), **gpu})

    def needed(self, vectors: str, flags: str) -> Machine:
        """What code needs that was compiled on this machine with these compiler flags."""
        every = self.features
        features = every and tuple(flag for flag in required_flags(flags, every) if flag in every)
        return Machine(**{**asdict(self), "vectors": vectors, "features": features})

    @classmethod
    def read(cls, stored: object, where: Path) -> Machine:
        """From JSON. Raises ModelError where it is not what `to_dict` gave."""
        try:
            if not isinstance(stored, Mapping):
                raise TypeError(f"found {stored!r}")
            features = stored.get("features")
            return cls(**{**stored, "features": None if features is None else tuple(features)})
        except TypeError as error:
            raise ModelError(f"{where} does not say what it was compiled for ({error}): compile again") from error

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def unmet(self, here: Machine) -> list[str]:
        """What a package with these needs lacks on the machine `here`, as sentences; empty where it runs.

        Releases of torch that differ in the last number only share their interface. A GPU's code runs on its own
        architecture only.
        """
        wrong = []
        if (self.system, self.machine) != (here.system, here.machine):
            wrong.append(f"it is code for {self.machine} on {self.system}, this is {here.machine} on {here.system}")
        if _release(self.torch) != _release(here.torch):
            wrong.append(f"it was compiled by torch {self.torch}, this is torch {here.torch}")
        lacking = [] if here.features is None else [one for one in self.features or () if one not in here.features]
        if lacking and not wrong:
            wrong.append(f"it is code for {self.vectors}, and this CPU has no {', '.join(lacking)}")
        if self.capability is not None and self.capability != here.capability:
            wrong.append(
                f"it is code for a GPU of compute capability {self.capability} ({self.gpu}), "
                f"here is {here.capability or 'none'}{f' ({here.gpu})' if here.gpu else ''}"
            )
        if self.cuda is not None and self.cuda.partition(".")[0] != (here.cuda or "").partition(".")[0]:
            wrong.append(f"it was compiled for CUDA {self.cuda}, torch here for CUDA {here.cuda or 'none'}")
        return wrong


@cache
def cpu_flags() -> tuple[str, ...] | None:
    """Every flag that the kernel lists of this CPU; None where there is no such list."""
    if not _CPUINFO.is_file():
        return None
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return tuple(found[1].split()) if found else None


def required_flags(flags: str, every: tuple[str, ...]) -> tuple[str, ...]:
    """The CPU flags that code needs which a compiler made with `flags`, on a CPU that has `every`.

    >>> required_flags("-mavx2 -mfma -mavx512vnni -mamx-tile", ())
    ('avx2', 'fma', 'avx512_vnni', 'amx_tile')
    >>> required_flags("-march=armv8-a+sve+bf16 -msve-vector-bits=256", ())
    ('sve', 'bf16')
    >>> required_flags("-mavx2 -march=native", ("fpu", "avx2", "bmi1"))
    ('avx2', 'bmi1')
    """
    found: dict[str, None] = {}
    for flag in flags.split():
        name, equals, value = flag.removeprefix("-m").partition("=")
        if flag == "-march=native":
            found |= dict.fromkeys(one for one in every if one.startswith(_INSTRUCTIONS))
        elif equals:
            found |= dict.fromkeys(value.split("+")[1:])
        elif flag.startswith("-m"):
            found[_SPELLED.get(name, name.replace("-", "_"))] = None
    return tuple(found)


def _release(version: str) -> list[str]:
    return version.split(".")[:2]

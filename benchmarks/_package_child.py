"""Opens an artifact in a process that has no compiler and an empty cache, and runs it on feeds: for `packages.py`.

    python _package_child.py ARTIFACT FEEDS

FEEDS is a folder of .npz files. Beside each NAME.npz comes `NAME.found.npz`, or `NAME.error.txt` where it was refused.
What else happened is the last line of stdout, as JSON: programs that were started, modules of the compiler that were
loaded, and files in the caches.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

COMPILERS = ("g++", "gcc", "c++", "cc", "clang++", "clang", "icpx", "ld", "as", "nvcc", "ptxas")

#: What Python says, through its audit hooks, when it starts a program.
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")


def main() -> None:
    artifact, folder = sys.argv[1], Path(sys.argv[2])
    found = [name for name in COMPILERS if shutil.which(name)]
    if found:
        raise SystemExit(f"there are compilers: {found}")
    started: list[str] = []

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in STARTS:
            started.append(f"{event} {arguments[:1]}")

    sys.addaudithook(hook)
    import numpy as np
    import tersor

    session = tersor.open(artifact)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as feeds:
            try:
                answers = session.run(dict(feeds))
            except tersor.TersorError as error:
                path.with_suffix(".error.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            else:
                np.savez(
                    path.with_suffix(".found.npz"),
                    **{str(place): array for place, array in enumerate(answers.values())},
                )
    caches = [Path(os.environ[name]) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")]
    cached = [str(path) for cache in caches if cache.is_dir() for path in cache.rglob("*") if path.is_file()]
    compiler = [name for name in ("torch._inductor.compile_fx", "torch._inductor.codecache") if name in sys.modules]
    print(json.dumps({"started": started, "compiler": compiler, "cached": cached}))


if __name__ == "__main__":
    main()

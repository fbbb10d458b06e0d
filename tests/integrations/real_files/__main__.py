"""A command that runs the integrations inside the frameworks' own files, taken from checkouts of yours.

    python -m tests.integrations.real_files slime=FOLDER miles=FOLDER prime-rl=FOLDER skyrl=FOLDER

Each loss and its gradient must be the project's own, to 1e-5. No `__init__` of a framework runs, and of what is not
installed nothing is called, so that neither a GPU nor Megatron is needed; needed are torch and ray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from tests.integrations.real_files import others, packed

CHECKS: Mapping[str, Callable[[Path], Iterator[str]]] = {
    "slime": partial(packed.checked, "slime"),
    "miles": partial(packed.checked, "miles"),
    "prime-rl": others.prime_rl,
    "skyrl": others.skyrl_,
}


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    for argument in arguments:
        name, _, folder = argument.partition("=")
        if name not in CHECKS or not Path(folder).is_dir() or not folder:
            print(f"{argument} must be NAME=FOLDER with one of {', '.join(CHECKS)} and a folder that exists")
            return 2
        for done in CHECKS[name](Path(folder)):
            print(f"{name}: {done}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A command that runs a framework's own functions on fixed batches, in an environment that has the framework.

    python -m tests.frameworks verl [--write]

Without --write it compares what the framework computes with the file in this folder; a test compares ours with that
file, without the framework. Environments (torch from wherever you take it; verl needs no vLLM and starts no ray):

    verl    pip install torch 'transformers<5.11' 'tensordict<=0.10' numpy omegaconf hydra-core codetiming ray
            pip install --no-deps verl==0.9.1
    trl     pip install trl==1.16.0
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FRAMEWORKS = ("verl", "trl")


def differences(found: object, stored: object, where: str = "") -> Iterator[str]:
    """The places in which two values of JSON differ; numbers by more than 1e-8 of the larger or of 1."""
    if isinstance(found, dict) and isinstance(stored, dict) and found.keys() == stored.keys():
        for name in found:
            yield from differences(found[name], stored[name], f"{where}.{name}")
    elif isinstance(found, list) and isinstance(stored, list) and len(found) == len(stored):
        for at, pair in enumerate(zip(found, stored, strict=True)):
            yield from differences(*pair, f"{where}[{at}]")
    elif isinstance(found, int | float) and isinstance(stored, int | float):
        if not (math.isclose(found, stored, rel_tol=1e-8, abs_tol=1e-8) or (found != found and stored != stored)):
            yield f"{where}: {found} here, {stored} in the file"
    elif found != stored:
        yield f"{where}: {found!r} here, {stored!r} in the file"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.frameworks", description=__doc__)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--write", action="store_true", help="write the file")
    arguments = parser.parse_args()
    values = importlib.import_module(f"tests.frameworks.{arguments.framework}_values").values()
    path = HERE / f"{arguments.framework}.json"
    if arguments.write:
        path.write_text(json.dumps(values, separators=(",", ":")) + "\n")
        print(f"{path.name}: {path.stat().st_size} bytes, of {arguments.framework} {values['version']}")
        return 0
    wrong = list(differences(json.loads(json.dumps(values)), json.loads(path.read_text())))
    print("\n".join(wrong[:20]) or f"{arguments.framework} {values['version']} computes what {path.name} holds")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

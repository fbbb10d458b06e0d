"""`python -m tests.integrations.verl_environment`: the tests of the integration against verl itself.

verl's transformers is older than that of the other extras: uv makes an environment of `.[verl]`, constraints-verl.txt
and what verl's trainers and the tests need beside. `--python` takes one that is there already. See `tests.versions`
about torch, `--hold` and UV_TORCH_BACKEND.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ("tests/integrations/test_verl.py", "tests/integrations/test_verl_package.py")
BESIDE = ("pytest", "hypothesis", "cachetools", "fastapi", "pyzmq", "TransferQueue>=0.1.10", "uvicorn")
"""What the tests need, and what verl's trainers import and its metadata leave to another extra."""
ASSERTED = "import verl, importlib.metadata as m; print('verl', m.version('verl'))"


def made(folder: Path, python: str, hold: Sequence[str]) -> str:
    """The interpreter of a new environment."""
    interpreter = str(folder / "bin" / "python")
    uv = [sys.executable, "-m", "uv"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    held = folder.with_suffix(".txt")
    held.write_text("".join(f"{line}\n" for line in hold), encoding="utf-8")
    subprocess.run([*uv, "venv", "--quiet", "--clear", "--python", python, str(folder)], check=True)
    constraints = ("--constraints", "constraints-verl.txt", "--constraints", str(held))
    asked = [*constraints, "--editable", ".[verl]", *BESIDE]
    subprocess.run([*uv, "pip", "install", "--quiet", "--python", interpreter, *asked], cwd=ROOT, check=True)
    return interpreter


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the environment, unless one is given, and runs the tests in it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.integrations.verl_environment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", help="the interpreter of an environment that has verl already")
    parser.add_argument("--folder", type=Path, help="where a new environment goes; default: a temporary folder")
    parser.add_argument("--hold", nargs="+", default=[], help="further constraints for a new environment")
    options = parser.parse_args(argv)
    python = options.python
    if python is None:
        folder = (options.folder or Path(tempfile.mkdtemp(prefix="jackpot-verl-")) / "verl").resolve()
        python = made(folder, sys.executable, options.hold)
    for command in (["-c", ASSERTED], ["-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]):
        if code := subprocess.run([python, *command], cwd=ROOT, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())

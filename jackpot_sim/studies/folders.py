"""The folder of a study's records: it holds one study, and one process at a time writes to it.

`manifest.json` comes first and says what was asked, with its hash. A folder that holds other files and no manifest
belongs to somebody else, and is left alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jackpot_sim.studies.errors import StudyError
from jackpot_sim.studies.files import LOCK, locked, remove_if_empty, unwritable, write_atomically
from jackpot_sim.studies.kinds import kind_of_folder

MANIFEST = "manifest.json"

_EARLY = (LOCK, f".{MANIFEST}.tmp")
"""The files of a study that was killed before it had a manifest."""


@dataclass(frozen=True)
class StudyFolder:
    """A folder that a study writes its records to."""

    root: Path
    noun: str
    """The name of its contents in errors: `run` or `study`."""
    is_manifest: Callable[[dict[str, Any]], bool]
    """Tests whether a mapping with a `config_hash` is a manifest; it may raise TypeError or KeyError."""

    @property
    def has_manifest(self) -> bool:
        """True once a study was begun in the folder."""
        return (self.root / MANIFEST).exists()

    @contextlib.contextmanager
    def claimed(self, config_hash: str, corrections: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
        """The folder, created or found to hold the study with this hash, and locked against other processes.

        A study that begins in the block and fails before it has a result leaves nothing behind.

        Args:
            config_hash: the hash.
            corrections: digests of the study's corrections that are not ours, which its manifest holds too.

        Raises:
            StudyError: it holds another study or something else, is in use, or cannot be written.
        """
        begins, absent = False, list[Path]()
        try:
            with contextlib.ExitStack() as stack:
                try:
                    self._require_own(config_hash, corrections)
                    absent = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
                    stack.enter_context(locked(self.root))
                    # Again: another process may have begun and ended in between.
                    self._require_own(config_hash, corrections)
                except OSError as error:
                    raise unwritable(Path(error.filename or self.root), error) from error
                begins = not self.has_manifest
                yield
        except BaseException:
            if begins:
                remove_if_empty(self.root, (LOCK, MANIFEST), absent)
            raise

    def _require_own(self, config_hash: str, corrections: Mapping[str, str]) -> None:
        if self.has_manifest:
            try:
                begun = self.manifest()
            except StudyError as error:
                raise StudyError(f"{error}; choose another --out") from error
            other, before = begun["config_hash"], begun.get("corrections", {})
            if changed := [name for name in corrections if before.get(name, corrections[name]) != corrections[name]]:
                raise StudyError(
                    f"{self.root} was begun with other code of {changed[0]}: put the plug-in back as it was, or choose "
                    "another --out"
                )
            if other != config_hash:
                raise StudyError(
                    f"{self.root} holds another study (config {other}, this one is {config_hash}): choose another --out"
                )
        elif self.root.is_dir() and any(path.name not in _EARLY for path in self.root.iterdir()):
            raise StudyError(f"{self.root} holds files but no {self.noun}: choose an empty or a new folder with --out")
        elif self.root.exists() and not self.root.is_dir():
            raise StudyError(f"{self.root} is not a folder: choose another --out")

    def manifest(self) -> dict[str, Any]:
        """The manifest.

        Raises:
            StudyError: there is none, it cannot be read, or it is that of another kind of study.
        """
        path = self.root / MANIFEST
        content: dict[str, Any] = {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            kind = kind_of_folder(content) if isinstance(content, dict) else None
            if kind is not None and kind.noun != self.noun:
                raise StudyError(f"{self.root} holds {kind.reading.format(root=self.root)}")
            whole = isinstance(content["config_hash"], str) and self.is_manifest(content)
        except OSError as error:
            raise StudyError(f"{self.root} holds no {self.noun}: {path} cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise StudyError(f"{path} is not the manifest of a {self.noun}: it is damaged, or something else's")
        return content

    def write_manifest(self, content: Mapping[str, object]) -> None:
        """Writes the manifest, all of it or nothing."""
        text = json.dumps(content, indent=1)
        write_atomically(self.root / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))

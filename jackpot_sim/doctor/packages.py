"""The packages that the project asks for, each with its state, and the extras that they make up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from jackpot_sim.requirements import Package, State, asked_for, has_own_constraints, install, package

UNLOCKS = {
    "hf": "real models, training, diagnose --policy",
    "gguf": "GGUF files as checkpoints, smollm2",
    "llama-cpp": "llama.cpp in this process as the actor",
    "llama-cpp-server": "a server of llama.cpp, to try --server with",
    "lora": "training of LoRA adapters",
    "ray": "studies on several machines (--executor ray)",
    "reasoning-gym": "tasks and prompts of reasoning-gym",
    "tensorboard": "train --tensorboard",
    "trl": "corrections and recording in TRL, bench training",
    "verl": "corrections and recording in verl",
    "test": "the tests",
    "docs": "the documentation, mkdocs build",
}
"""The part of the project that each extra makes usable."""

SERVERS = ("vllm", "sglang")
"""Packages that serve the actor, in any environment: they are asked over HTTP and not imported."""

_UNFIT = (State.MISSING, State.UNREADABLE, State.TOO_OLD)


@dataclass(frozen=True)
class Found:
    """A package that the project asks for, as it was found.

    Attributes:
        package: its versions.
        error: the error of its import; None where it was imported, or not tried.
    """

    package: Package
    error: str | None = None

    @property
    def usable(self) -> bool:
        """True where it is there, new enough, and not known to be broken."""
        return self.package.state not in _UNFIT and self.error is None

    @property
    def verdict(self) -> str:
        """The state in two or three words."""
        return self.package.state if self.error is None else "cannot be imported"


@dataclass(frozen=True)
class Extra:
    """A set of packages that is installed together.

    Attributes:
        name: its name in pyproject.toml; empty for the core.
        packages: the packages that it asks for.
    """

    name: str
    packages: tuple[Found, ...]

    @property
    def lacking(self) -> list[str]:
        """The packages that are missing, too old or broken."""
        return [each.package.name for each in self.packages if not each.usable]

    @property
    def install(self) -> str:
        """The command that installs it."""
        return install(self.name)

    @property
    def apart(self) -> bool:
        """True where it needs an environment of its own."""
        return bool(self.name) and has_own_constraints(self.name)


def wanted() -> dict[str, list[str]]:
    """The packages of each extra, those of the core under an empty name; without those of tests and documentation."""
    extras: dict[str, list[str]] = {"": []}
    for requirement, extra in asked_for():
        if extra not in ("test", "docs"):
            extras.setdefault(extra, []).append(requirement.name)
    return extras


def looked_up(names: Mapping[str, Sequence[str]], errors: Mapping[str, str]) -> list[Extra]:
    """The extras with what was found of their packages.

    Args:
        names: the packages of each extra.
        errors: the errors of imports, by package.
    """
    return [
        Extra(extra, tuple(Found(package(name), errors.get(name)) for name in packages))
        for extra, packages in names.items()
    ]


def conflicts(installed: Sequence[Package]) -> Iterator[str]:
    """Sentences about packages that want another version of one that is installed."""
    for each in installed:
        try:
            lines = metadata.requires(each.name) or []
        except Exception:  # metadata that are damaged in any way
            continue
        for line in lines:
            if (sentence := _conflict(each, line)) is not None:
                yield sentence


def _conflict(wanting: Package, line: str) -> str | None:
    try:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            return None
        other = package(requirement.name)
        fits = requirement.specifier.contains(other.installed or "0", prereleases=True)
    except Exception:  # a line or a version that nobody can read
        return None
    if other.installed is None or fits:
        return None
    told = ",".join(sorted(map(str, requirement.specifier)))
    return (
        f"{wanting.name} {wanting.installed} wants {requirement.name}{told}, and {other.installed} is installed: "
        "install one that suits both, or give each an environment of its own"
    )

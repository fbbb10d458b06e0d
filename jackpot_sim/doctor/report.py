"""The report of `doctor`: all that was found, as JSON or in 80 columns."""

from __future__ import annotations

import json
import platform
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jackpot_sim import __version__, version
from jackpot_sim.doctor.machine import RAY, machine
from jackpot_sim.doctor.packages import SERVERS, UNLOCKS, Extra, Found, conflicts, looked_up, wanted
from jackpot_sim.doctor.trial import tried
from jackpot_sim.requirements import State, package

OPTIONS = ("--json", "--quick")
WIDTH = 80

_LITTLE = 1.0
"""GiB of disk below which records of a study may not fit."""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        extras: the core and the extras.
        conflicts: sentences about packages that want other versions.
        devices: what torch sees; None where it was not asked, empty where it is not there.
        machine: the machine.
        broken: the error of command lines, where they cannot be imported.
    """

    extras: Sequence[Extra]
    conflicts: Sequence[str]
    devices: Mapping[str, Any] | None
    machine: Mapping[str, Any]
    broken: str = ""

    @property
    def usable(self) -> bool:
        """True where every package of the core can be used."""
        return bool(self.extras[0].packages) and not self.extras[0].lacking and not self.broken

    @property
    def packages(self) -> list[Found]:
        """All packages, each once."""
        found = {each.package.name: each for extra in reversed(self.extras) for each in extra.packages}
        return [found[name] for name in dict.fromkeys(e.package.name for x in self.extras for e in x.packages)]


def told(*, as_json: bool, quick: bool, broken: str = "") -> int:
    """Prints the report.

    Args:
        as_json: True for JSON, False for text.
        quick: True to import no package.
        broken: the error of command lines, where they cannot be imported.

    Returns:
        The exit code: 0 where the core can be used, else 2.
    """
    if not quick and sys.stderr.isatty():
        print("doctor: every package is imported once, which takes some seconds", file=sys.stderr)
    found = looked(quick=quick, broken=broken)
    text = json.dumps(_plain(found), indent=1) if as_json else "\n".join(_lines(found))
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
    return 0 if found.usable else 2


def looked(*, quick: bool, broken: str = "") -> Report:
    """Looks at all of it, as `told` prints it."""
    names = wanted()
    every = dict.fromkeys(name for packages in names.values() for name in packages)
    there = [each for each in map(package, every) if each.installed is not None]
    errors: dict[str, str] = {}
    devices: dict[str, object] | None = None
    if not quick:
        errors, devices = tried([each.name for each in there])
    return Report(looked_up(names, errors), list(conflicts(there)), devices, machine(), broken)


def _plain(found: Report) -> dict[str, object]:
    """The report as JSON holds it."""
    return {
        "version": __version__,
        "commit": version.commit(),
        "python": platform.python_version(),
        "usable": found.usable,
        "broken": found.broken or None,
        "packages": [
            {
                "name": each.package.name,
                "installed": each.package.installed,
                "needed": str(each.package.needed),
                "newest_tested": None if each.package.newest is None else str(each.package.newest),
                "state": each.package.state.value,
                "import_error": each.error,
            }
            for each in found.packages
        ],
        "extras": [
            {
                "name": extra.name,
                "unlocks": UNLOCKS.get(extra.name, ""),
                "packages": [each.package.name for each in extra.packages],
                "lacking": extra.lacking,
                "install": extra.install,
            }
            for extra in found.extras
            if extra.name
        ],
        "servers": {name: package(name).installed for name in SERVERS},
        "conflicts": list(found.conflicts),
        "devices": found.devices,
        "machine": dict(found.machine),
    }


def _lines(found: Report) -> Iterator[str]:
    state = "the core can be used" if found.usable else "the core CANNOT be used"
    yield f"{version.line()}: {state}"
    yield ""
    yield from _table(("package", "installed", "tested", "verdict"), (17, 13, 25), _rows(found))
    yield ""
    yield from _table(("extra", "state", "unlocks"), (18, 9), _extras(found))
    yield ""
    for label, sentence in _machine(found):
        yield from _item(f"{label:8}", sentence)
    for sentence in _problems(found):
        yield ""
        yield from _item("", sentence)


def _rows(found: Report) -> Iterator[tuple[str, ...]]:
    for each in found.packages:
        installed = each.package.installed
        yield each.package.name, "-" if installed is None else installed or "?", each.package.tested, each.verdict


def _extras(found: Report) -> Iterator[tuple[str, ...]]:
    for extra in found.extras:
        if extra.name:
            yield extra.name, "lacking" if extra.lacking else "ready", UNLOCKS.get(extra.name, "")


def _machine(found: Report) -> Iterator[tuple[str, str]]:
    here = found.machine
    share = "" if here["processor_limit"] is None else f", held to the time of {here['processor_limit']:g}"
    processors = f"{here['processors']} processors, {here['usable_processors']} for this process{share}"
    yield "CPU", f"{processors}; {_threads(found)}"
    most = "" if here["memory_limit_gib"] is None else f"; this process is held to {_told(here['memory_limit_gib'])}"
    yield "Memory", f"{_told(here['memory_gib'])}, {_told(here['free_memory_gib'])} of them free{most}"
    yield "GPU", _gpu(found.devices)
    little = here["free_disk_gib"] is not None and here["free_disk_gib"] < _LITTLE
    room = ": little room for records" if little else ""
    yield "Disk", f"{_told(here['free_disk_gib'])} free for this folder{room}" + ("" if here["writable"] else _CLOSED)
    address = here["ray_address"]
    yield "Ray", f"{RAY} is {address}" if address else f"{RAY} is not set: --ray-address names a cluster"
    served = [f"{name} {each}" for name in SERVERS if (each := package(name).installed)]
    yield "Servers", f"{', '.join(served) or 'neither vLLM nor SGLang'} is here; they are asked over HTTP, wherever"


_CLOSED = ", in which nothing may be written: give --out a folder elsewhere"


def _threads(found: Report) -> str:
    told = [f"{name}={value}" for name, value in found.machine["threads"].items()]
    if found.devices and "threads" in found.devices:
        told.insert(0, f"torch takes {found.devices['threads']} threads")
    return "; ".join(told) or "no variable sets the threads"


def _gpu(devices: Mapping[str, Any] | None) -> str:
    if devices is None:
        return "not looked for: --quick imports no torch"
    if "error" in devices:
        return f"torch fails to look: {devices['error']}"
    if "cuda" not in devices:
        return "not known without torch"
    cuda = [f"{each['name']} ({each['memory_gib']} GiB)" for each in devices["cuda"]]
    return "; ".join([*cuda, *["MPS"] * bool(devices["mps"])]) or "none that torch can use, neither CUDA nor MPS"


def _told(gib: float | None) -> str:
    return "unknown" if gib is None else f"{gib:,.1f} GiB"


def _problems(found: Report) -> Iterator[str]:
    """A sentence for everything that is not as it should be, what matters most first."""
    core, *extras = found.extras
    if not core.packages:
        yield "The project is not installed, so that its needs are not known: pip install . in its folder."
    if found.broken:
        yield f"No command can be run: {found.broken}"
    if core.lacking:
        yield f"The core lacks {', '.join(core.lacking)}: {core.install}"
    for each in found.packages:
        if each.error is not None:
            yield f"{each.package.name} {each.package.installed} cannot be imported: {each.error}"
        elif each.package.state is State.UNREADABLE:
            yield f"{each.package.name} has no version that can be read: install it anew."
        elif each.package.state is State.NEWER:
            yield (
                f"{each.package.name} {each.package.installed} is newer than tested ({each.package.tested}): "
                "what has changed since is not known here."
            )
    own = [extra.name for extra in extras if not extra.lacking and extra.apart]
    elsewhere = f", in another environment than that of {' and '.join(own)}" if own else ""
    for extra in extras:
        if extra.lacking:
            yield f"{extra.name} lacks {', '.join(extra.lacking)}: {extra.install}{elsewhere}"
    yield from (f"{sentence}." for sentence in found.conflicts)


def _table(headings: Sequence[str], widths: Sequence[int], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Columns of these widths, the last as wide as is left; what is too long is cut, and stands whole in JSON."""
    last = WIDTH - sum(widths) - 2 * len(widths)
    for row in (headings, *rows):
        yield "  ".join(_cut(cell, width) for cell, width in zip(row, (*widths, last), strict=True)).rstrip()


def _cut(text: str, width: int) -> str:
    return f"{text:{width}}" if len(text) <= width else f"{text[: width - 2]}.."


def _item(label: str, sentence: str) -> list[str]:
    indent = " " * (len(label) or 2)
    return textwrap.wrap(sentence, WIDTH, initial_indent=label, subsequent_indent=indent, break_on_hyphens=False)

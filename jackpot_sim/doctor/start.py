"""The start of `doctor`, which answers where the packages of command lines cannot be imported either."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jackpot_sim.doctor import report
from jackpot_sim.doctor.trial import told
from jackpot_sim.requirements import RequirementError, require


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; with a core that is broken the same report, by its two options alone. The exit code."""
    try:
        require()
        from jackpot_sim.doctor import cli
    except RequirementError as error:
        return _without_core(sys.argv[1:] if argv is None else argv, str(error))
    except (Exception, SystemExit) as error:  # whatever a broken package does when it is imported
        return _without_core(sys.argv[1:] if argv is None else argv, told(error))
    return cli.main(argv)


def _without_core(tokens: Sequence[str], broken: str) -> int:
    if unknown := [token for token in tokens if token not in report.OPTIONS]:
        print(f"doctor: {unknown[0]!a} is no option: give {' or '.join(report.OPTIONS)}, or none", file=sys.stderr)
        return 2
    try:
        return report.told(as_json="--json" in tokens, quick="--quick" in tokens, broken=broken)
    except OSError as error:  # the output cannot be written
        print(f"doctor: the system refuses: {error}", file=sys.stderr)
        return 2

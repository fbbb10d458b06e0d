from jackpot_sim.diagnose.evidence import Evidence
from jackpot_sim.readers.screening import Screening


def evidence_of(table):
    """What the pass over a small dump gives to causes."""
    screening = Screening()
    sample = screening.screen(table)
    return Evidence(
        sample=sample,
        left_out=screening.left_out,
        read=screening.read,
        metrics={},
        bypass=screening.bypass,
        shifted=screening.shifted,
    )

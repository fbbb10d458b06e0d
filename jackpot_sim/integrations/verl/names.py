"""The names of our policy losses in verl."""

LOSS = "jackpot_sim"
"""The policy loss that takes its correction from the configuration."""
NAMED = (
    *("binary-kl-mask", "cispo", "dppo-kl", "dppo-tv", "geometric-band-is", "geometric-is", "geometric-mis"),
    *("geometric-tis", "gmpo", "gspo", "icepop", "is", "jackpot", "luspo", "m2po", "mask-k1", "mask-k2", "mask-k3"),
    *("minpro", "mis", "none", "obrs", "opsm", "overlap-tis", "ppo-clip", "sapo", "sequence-is"),
    *("sequence-mask-error", "sequence-mask-k1", "sequence-mask-k2", "sequence-mask-k3", "sequence-mis"),
    *("sequence-tis", "tis", "topr", "tv-mask", "vaco", "vespo", "veto"),
)
"""The corrections that have a policy loss of their own, with their usual thresholds: `jackpot_sim:jackpot`.

They are listed, since verl loads this in each of its processes, and most of these need none.
"""


def is_ours(loss_mode: object) -> bool:
    """True for the name of one of our policy losses."""
    return str(loss_mode).split(":")[0] == LOSS

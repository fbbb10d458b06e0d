"""slime's `train_data/{rollout}.pt` and `rollout_data/{rollout}.pt`: samples, with the sides of trainer and rollout."""

from __future__ import annotations

from jackpot_sim.readers.formats.samples import Samples

FORMAT = Samples("slime", keys=("rollout_id", "samples"), but=("metadata",))

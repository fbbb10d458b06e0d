"""miles's `train_data/{rollout}_{rank}.pt` and `rollout_data/{rollout}.pt`; and slime's of the time before samples."""

from __future__ import annotations

from jackpot_sim.readers.formats.samples import Samples

FORMAT = Samples("miles", keys=("rollout_id", "rollout_data"), also=(("rollout_id", "samples", "metadata"),))

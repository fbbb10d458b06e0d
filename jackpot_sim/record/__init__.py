"""A recorder of rollouts with the log-probs of both policies, for trainers whose own dumps leave them out.

`jackpot_sim.record.trl` and `jackpot_sim.record.verl` hold the few lines that TRL and verl need; a loop of your own
calls `Recorder.write` once a step.
"""

from jackpot_sim.record.recorder import Recorder

__all__ = ["Recorder"]

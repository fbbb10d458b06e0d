"""A recorder of rollouts with the log-probs of both policies, for trainers whose own dumps leave them out."""

from jackpot_sim.record.recorder import Recorder

__all__ = ["Recorder"]

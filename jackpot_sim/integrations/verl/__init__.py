"""Corrections in verl: policy losses for its bypass mode, and its rollout correction where both laws are seen.

| Mode of verl | What is corrected | Named by |
|---|---|---|
| three policies | weights and mask of a batch | `algorithm.rollout_correction.correction` |
| bypass | the policy loss | `loss_mode=jackpot_sim:jackpot`, or `loss_mode=jackpot_sim` and that field |

verl loads `plugin` by the entry-point group `verl.plugins` in each of its processes.
"""

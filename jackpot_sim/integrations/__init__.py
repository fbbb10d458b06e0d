"""Corrections inside the trainers that people use: each module renames and reshapes, and calls the objective.

| Trainer | Module | Hook |
|---|---|---|
| TRL | `trl` | a subclass of GRPOTrainer, or a mixin |
| verl | `verl` | policy losses, and the rollout correction of a batch |
| slime, miles | `slime`, `miles` | `--custom-tis-function-path`, `--custom-loss-function-path` |
| prime-rl | `prime_rl` | a custom loss |
| SkyRL | `skyrl` | a policy loss in its registry |
"""

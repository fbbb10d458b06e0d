"""Names for objects of trainers and models, which no types describe here: an annotation says what is meant."""

from __future__ import annotations

from typing import Any, TypeAlias

Trainer: TypeAlias = Any
"""A trainer, or a part of one that all its processes share."""
Config: TypeAlias = Any
"""The configuration of a trainer."""
Batch: TypeAlias = Any
"""A batch of a trainer, or its tensors by name."""
CausalModel: TypeAlias = Any
"""A causal language model of transformers, perhaps inside PEFT's wrapper."""
Passed: TypeAlias = Any
"""An argument or a result that is handed on as it comes."""

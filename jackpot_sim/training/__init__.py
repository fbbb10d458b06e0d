"""Small language models trained by GRPO, with an actor that does not match the policy."""

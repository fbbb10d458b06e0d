"""Corrections applied to the very batch: what each keeps, masks and weighs."""

"""Fuzz of every public function that takes arrays: an array of a wrong shape or dtype is refused, or makes no difference."""

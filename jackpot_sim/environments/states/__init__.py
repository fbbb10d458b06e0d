"""Policy pairs at independent states: base laws, advantages, and the families that move an actor off its policy."""

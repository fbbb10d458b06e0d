"""Policy pairs at independent states: base laws, and the families that move an actor away from its policy."""

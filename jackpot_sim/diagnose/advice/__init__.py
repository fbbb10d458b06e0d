"""The verdict on a dump, and the correction, threshold and configuration that a stated target asks for."""

"""The records of studies of training: read, summarised, and drawn."""

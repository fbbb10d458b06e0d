"""The diagnosis in a terminal, in JSON, in records and in plots."""

"""Tables with uncertainty, CSV and figures from the records of any run, and the list of runs."""

"""What needs a framework is run by its command, and not collected."""

collect_ignore = ["verl_values.py", "trl_values.py"]

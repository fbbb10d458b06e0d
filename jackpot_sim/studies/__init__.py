"""What all studies share: configurations, estimators by name, executors, files."""

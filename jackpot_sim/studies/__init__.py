"""The parts that all studies share: configurations, estimators by name, executors, folders."""

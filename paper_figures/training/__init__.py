"""The parts that figures of training share: records, statistics of runs, curves, tables, claims of the paper."""

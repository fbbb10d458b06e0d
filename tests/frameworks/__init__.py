"""What training frameworks compute, by their own code, and what we compute from the same batches."""

"""The formats of dumps, one file each: from the records of a file to the sequences in it."""

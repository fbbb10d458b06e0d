"""The report of runs as one HTML file that opens offline: records → a typed page → HTML."""

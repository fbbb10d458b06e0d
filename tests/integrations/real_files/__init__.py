"""The integrations inside the frameworks' own files, where these import without a GPU."""

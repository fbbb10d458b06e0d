"""Small language models whose every sequence can be enumerated, and their rewards."""

"""What makes tiny models, broken ones, and the oracle."""

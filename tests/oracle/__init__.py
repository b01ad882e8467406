"""The loop oracle: every construct of the language against plain loops over i and j."""

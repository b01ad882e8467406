"""`draw`: a spec as a picture of its graph."""

"""Parity: every spec equals an implementation that shares no code with it, values and gradients."""

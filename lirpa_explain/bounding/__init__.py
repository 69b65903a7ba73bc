"""Bounds of gradients, and of what attributions make of them."""

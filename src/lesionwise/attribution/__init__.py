"""Derivatives of what the network says about one lesion, exact through the windows that meet it."""

"""Models people already have, read into one form: a differentiable network and a spec."""

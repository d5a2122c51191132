"""Pages and figures: what a neurologist, a reviewer and an engineer open."""

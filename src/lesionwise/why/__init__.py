"""What would have changed the network's mind about one lesion: margins (minimal counterfactuals) and anatomical Shapley.

Every answer comes from asking the network again about a changed scan, through the windows that predicted it.
"""

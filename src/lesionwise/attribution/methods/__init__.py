"""The attribution methods: gradients, paths from a baseline, class activation maps, occlusion and Shapley values."""

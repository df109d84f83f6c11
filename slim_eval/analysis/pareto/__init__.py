"""Pareto frontiers: objectives, dominance and hypervolume."""

"""Utility weights beside the graph: a policy's requests and decisions, its alphas, exploration."""

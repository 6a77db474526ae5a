"""Utility weights beside the graph: a policy's requests and decisions, its operating points, exploration."""

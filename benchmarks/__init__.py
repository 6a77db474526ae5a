"""Measurements of the parts and of the whole, with the reports that are committed."""

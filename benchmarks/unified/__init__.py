"""Unified against separate serving on one server."""

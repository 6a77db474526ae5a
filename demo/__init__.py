"""The tour of `make demo`: every stage once, on real data, with a report."""

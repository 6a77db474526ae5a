"""What the Triton nodes run, importable and testable without Triton, and the embedded launcher."""

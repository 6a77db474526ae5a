"""Load on a running server: replayed traffic, schedules of arrivals, Locust, and what was measured."""

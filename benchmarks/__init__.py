"""Measurements: run them before and after a change to a hot path, and beside a peer in the same run."""

"""The gateway cluster."""

"""Handlers that come with workermand. They are written as anybody's are, against the public names alone."""

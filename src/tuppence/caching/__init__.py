"""Prompt caching: where to put the markers, what it saves, and what breaks it."""

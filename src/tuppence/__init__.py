"""tuppence governs what AI agents spend: admitted, routed, cached and booked to the nano-dollar."""

__version__ = "0.1.0"

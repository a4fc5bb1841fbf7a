"""tuppence governs what AI agents spend: admitted, routed, cached and booked to the nano-dollar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuppence.governing.clients.wrapping import govern
    from tuppence.governing.scope import scope

__all__ = ["__version__", "govern", "scope"]
__version__ = "0.1.0"

_WHERE = {"govern": "tuppence.governing.clients.wrapping", "scope": "tuppence.governing.scope"}


def __getattr__(name: str) -> Any:
    """Import what stands here when it is asked for: the command line starts without it."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see above

    return getattr(import_module(_WHERE[name]), name)

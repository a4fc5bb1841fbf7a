"""The document's import name for `tuppence.model_router.router`."""

from tuppence.model_router.router import AsyncModelRouter, ModelRouter, TaskComplexity

__all__ = ["AsyncModelRouter", "ModelRouter", "TaskComplexity"]

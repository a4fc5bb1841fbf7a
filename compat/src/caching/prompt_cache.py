"""The document's import name for `tuppence.caching.prompt_cache`."""

from tuppence.caching.prompt_cache import AsyncPromptCache, PromptCache

__all__ = ["AsyncPromptCache", "PromptCache"]

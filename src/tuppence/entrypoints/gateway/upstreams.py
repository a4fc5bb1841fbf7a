"""All upstreams and names for models of a gateway; and which of them a call is tried on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random
from typing import NamedTuple

from tuppence.entrypoints.gateway.replies import Provider, Refusal
from tuppence.entrypoints.gateway.upstream import Place, Upstream, root_of


class Alias(NamedTuple):
    """A name of the gateway's own for a model."""

    name: str
    model: str
    """What is asked, priced and booked."""
    upstreams: tuple[str, ...] = ()
    """Names of the only upstreams for it, the first one first; those of the model where empty."""


class Upstreams:
    """All upstreams and aliases of a gateway."""

    def __init__(self, upstreams: Collection[Upstream], aliases: Collection[Alias] = ()) -> None:
        self.all = tuple(sorted(upstreams, key=lambda one: one.order))
        self._by_name = {one.name: one for one in self.all}
        self._aliases = {one.name: one for one in aliases}

    def alias(self, name: object) -> Alias | None:
        """Return what stands behind a name that is asked for as a model; None for a real one."""
        return self._aliases.get(name) if isinstance(name, str) else None

    def of(self, provider: Provider) -> list[Upstream]:
        """Return all that speak a provider's API, those that are tried first in front."""
        return [one for one in self.all if one.provider == provider]

    def ranked(
        self, provider: Provider, model: str, alias: Alias | None
    ) -> list[tuple[int, Upstream]]:
        """Return the upstreams of a call, each with its order for it."""
        if alias is None or not alias.upstreams:
            ranked = [(one.order, one) for one in self.all]
        else:
            ranked = list(enumerate(self._by_name[name] for name in alias.upstreams))
        return [
            (order, one) for order, one in ranked if one.provider == provider and one.serves(model)
        ]


class UpstreamChoice:
    """Chooses upstreams for calls, and remembers for a while which of them had better rest.

    What rests is known to this process only. `seconds` is a clock that never goes back.
    """

    def __init__(self, upstreams: Upstreams, seconds: Callable[[], float], random: Random) -> None:
        self.upstreams = upstreams
        self._seconds = seconds
        self.random = random
        """What shuffles upstreams, and pauses between attempts."""
        self._rests_until: dict[str, float] = {}

    def in_turn(
        self, provider: Provider, model: str, alias: Alias | None = None
    ) -> Sequence[Upstream]:
        """Return where a call is to be tried, one after the other; raise Refusal for nowhere.

        Those of one order are shuffled by their weights. Whoever rests comes after all others: a
        call had better not wait for a connection that has just failed, nor ask again too early.
        """
        ranked = self.upstreams.ranked(provider, model, alias)
        if not ranked:
            raise Refusal(404, f"No upstream of this gateway serves {model!r}", "unknown_model")
        if len(ranked) == 1:
            return [ranked[0][1]]
        now = self._seconds()
        # The least of exponential draws belongs to each with the chance that its weight says.
        turns = [
            (self._rests(one, now), order, self.random.expovariate(one.weight), index)
            for index, (order, one) in enumerate(ranked)
        ]
        return [ranked[index][1] for *_, index in sorted(turns)]

    def rest(self, upstream: Upstream, rest_seconds: float) -> None:
        """Try an upstream after the others for some time."""
        until = self._seconds() + rest_seconds
        self._rests_until[upstream.name] = max(until, self._rests_until.get(upstream.name, until))

    def _rests(self, upstream: Upstream, now: float) -> bool:
        until = self._rests_until.get(upstream.name)
        return until is not None and now < until


def upstreams_of_places(places: Mapping[Provider, Place], *, needs_key: bool) -> Upstreams:
    """Return one upstream for each provider; `needs_key`: only where the gateway has its key.

    A client's credential is the gateway's own key then, and must not be sent on.
    """
    return Upstreams(
        [
            Upstream(
                name=provider,
                provider=provider,
                base_url=root_of(place.base_url),
                setting=f"{provider.upper()}_BASE_URL",
                api_key=place.api_key,
            )
            for provider, place in places.items()
            if place.api_key is not None or not needs_key
        ]
    )

"""The price book: which price holds for a model, at a time, on the terms it was served on.

Sources, each overriding the one before for the units that it names, while its dates hold:
the public price list, our corrections of it, the user's contract prices. Nothing is ever edited in
place: a new price is a new dated row. Rules and their sources: docs/explanation/prices.md.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tuppence.core.model_match import Clause, matches, spellings
from tuppence.core.prices import Ancestors, Cost, Price, Rates, TieredRate
from tuppence.core.usage import STANDARD_TERMS, Terms, Usage

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class ListRow:
    """A row of the public list: rates with the condition under which they hold."""

    rates: Rates
    starts_at_seconds: int | None = None
    daily_seconds: tuple[int, int] | None = None
    """Daily interval in seconds of the UTC day; it may run over midnight."""
    when: tuple[tuple[str, str], ...] = ()
    """Terms that the row needs, such as (("processing", "batch"),); empty for standard rows."""

    def holds_at(self, at_seconds: int) -> bool:
        """Tell whether the row's dates and hours cover this moment."""
        if self.starts_at_seconds is not None and at_seconds < self.starts_at_seconds:
            return False
        if self.daily_seconds is None:
            return True
        start, end = self.daily_seconds
        second = at_seconds % SECONDS_PER_DAY
        return start <= second < end if start <= end else second >= start or second < end


@dataclass(frozen=True, slots=True)
class Correction:
    """Rates of ours for some units of one model in [starts_at, ends_at), with their source."""

    rates: Rates
    source: str
    starts_at_seconds: int | None = None
    ends_at_seconds: int | None = None

    def holds_at(self, at_seconds: int) -> bool:
        """Tell whether the correction covers this moment."""
        return (self.starts_at_seconds is None or at_seconds >= self.starts_at_seconds) and (
            self.ends_at_seconds is None or at_seconds < self.ends_at_seconds
        )


@dataclass(frozen=True, slots=True)
class TermsRule:
    """A provider's rule for token prices on certain terms: batch is half, US inference is 1.1."""

    provider: str
    term: str
    value: str
    multiplier: Fraction
    source: str
    model_match: Clause | None = None

    def applies_to(self, provider: str, model: str, terms: Terms) -> bool:
        """Tell whether the rule speaks of this provider, model and way of serving."""
        return (
            self.provider == provider
            and getattr(terms, self.term) == self.value
            and (self.model_match is None or matches(self.model_match, model))
        )


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the list with all its rows, corrections included."""

    provider: str
    model: str
    match: Clause
    standard: tuple[ListRow, ...] = ()
    variants: tuple[ListRow, ...] = ()
    corrections: tuple[Correction, ...] = ()
    context_window: int | None = None


@dataclass(frozen=True, slots=True)
class ContractPrice:
    """A price that the user agreed with a provider: one unit's rate from a date on."""

    provider: str
    model: str
    unit: str
    rate: Fraction
    starts_at_seconds: int
    source: str


@dataclass(frozen=True, slots=True)
class PriceList:
    """The public list with our corrections, as data."""

    models: Mapping[str, Sequence[ListedModel]]
    """The models by provider."""
    provider_matches: Sequence[tuple[str, Clause]] = ()
    """Which provider a model's name belongs to, in the order in which to ask."""
    provider_fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Providers whose models a provider sells too."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names that stand for a real model's id."""
    rules: Sequence[TermsRule] = ()
    ancestors: Ancestors = field(default_factory=dict)
    price_keys: Mapping[str, str] = field(default_factory=dict)
    """The kinds of prices that can be set ("input_mtok"), with the unit that each is for."""
    source: str = "list"


class Timeline:
    """All prices of one model over time. Prices are worked out once per interval and terms."""

    def __init__(
        self,
        listed: ListedModel,
        price_list: PriceList,
        contracts: Sequence[ContractPrice] = (),
    ) -> None:
        self.listed = listed
        self.price_list = price_list
        self._rules = [rule for rule in price_list.rules if rule.provider == listed.provider]
        self._contracts = sorted(contracts, key=lambda row: row.starts_at_seconds)
        self._hourly = [row for row in listed.standard if row.daily_seconds]
        self._starts = sorted(self._changes())
        self._known: dict[tuple[object, ...], Price | None] = {}

    @property
    def change_seconds(self) -> Sequence[int]:
        """The moments at which some rate may change, ascending."""
        return self._starts

    def price_at(self, at_seconds: int, terms: Terms = STANDARD_TERMS) -> Price | None:
        """Return the price that holds; None where none is known on these terms."""
        interval = bisect_right(self._starts, at_seconds)
        hours = tuple(row.holds_at(at_seconds) for row in self._hourly) if self._hourly else ()
        key = (interval, terms, hours)
        try:
            return self._known[key]
        except KeyError:
            price = self._known[key] = self._work_out(at_seconds, interval, terms)
            return price

    def _changes(self) -> set[int]:
        listed = self.listed
        moments = {row.starts_at_seconds for row in (*listed.standard, *listed.variants)}
        moments |= {row.starts_at_seconds for row in listed.corrections}
        moments |= {row.ends_at_seconds for row in listed.corrections}
        moments |= {row.starts_at_seconds for row in self._contracts}
        return {moment for moment in moments if moment is not None}

    def _work_out(self, at_seconds: int, interval: int, terms: Terms) -> Price | None:
        standard = self._standard_rates(at_seconds)
        corrections = [row for row in self.listed.corrections if row.holds_at(at_seconds)]
        corrected = {unit: rate for row in corrections for unit, rate in row.rates.items()}
        standard |= corrected
        contracts = {
            row.unit: row for row in self._contracts if row.starts_at_seconds <= at_seconds
        }
        if not standard and not contracts:
            return None
        rates = self._on_terms(standard, corrected.keys(), at_seconds, terms)
        if rates is None:
            return None
        for unit, contract in contracts.items():
            rates[unit] = self._contract_rate(contract, standard, rates, terms)
        sources = [self.price_list.source] if self.listed.standard else []
        sources += [row.source for row in corrections]
        sources += sorted({row.source for row in contracts.values()})
        return Price(
            provider=self.listed.provider,
            model=self.listed.model,
            rates=rates,
            terms=terms,
            starts_at_seconds=self._starts[interval - 1] if interval else None,
            source="; ".join(sources),
            ancestors=self.price_list.ancestors,
        )

    def _standard_rates(self, at_seconds: int) -> dict[str, TieredRate]:
        """Return the last standard row that holds; the first one where none does."""
        rows = self.listed.standard
        active = [row for row in rows if row.holds_at(at_seconds)] or list(rows[:1])
        return dict(active[-1].rates) if active else {}

    def _on_terms(
        self,
        standard: dict[str, TieredRate],
        corrected: Iterable[str],
        at_seconds: int,
        terms: Terms,
    ) -> dict[str, TieredRate] | None:
        rates = dict(standard)
        asked = [(name, getattr(terms, name)) for name in MODE_TERMS if getattr(terms, name)]
        if len(asked) > 1:
            return None  # no provider sells fast batch or the like: no price is known
        if asked:
            rows = [row for row in self.listed.variants if row.when == (asked[0],)]
            overrides = _variant_rates(rows, at_seconds, set(corrected))
            factor = self._rule_multiplier(terms, asked[0][0])
            if factor is None and not any(row.holds_at(at_seconds) for row in rows):
                return None
            affected = _affected_units(rows, rates)
            for unit, rate in standard.items():
                if unit in overrides:
                    rates[unit] = overrides[unit]
                elif factor is not None and unit in affected:
                    rates[unit] = rate.times(factor)
        if terms.inference_geo:
            uplift = self._rule_multiplier(terms, "inference_geo")
            if uplift is None:
                return None
            rates = {
                unit: rate.times(uplift) if unit.endswith("_tokens") else rate
                for unit, rate in rates.items()
            }
        return rates

    def _rule_multiplier(self, terms: Terms, term: str) -> Fraction | None:
        model = self.listed.model
        for rule in self._rules:
            if rule.term == term and rule.applies_to(self.listed.provider, model, terms):
                return rule.multiplier
        return None

    def _contract_rate(
        self,
        contract: ContractPrice,
        standard: Mapping[str, TieredRate],
        rates: Mapping[str, TieredRate],
        terms: Terms,
    ) -> TieredRate:
        """Return the contract's rate on the terms and in all tiers.

        Where a list price exists for the unit, or else for the unit that it is a case of, its tiers
        and terms keep their proportion to it; otherwise the contract is flat, with the provider's
        rules for the terms.
        """
        units = (contract.unit, *self.price_list.ancestors.get(contract.unit, ()))
        unit = next((unit for unit in units if unit in standard), None)
        if unit is not None and standard[unit].base:
            return rates[unit].times(contract.rate / standard[unit].base)
        rate = TieredRate(contract.rate)
        for term in TERM_NAMES:
            factor = self._rule_multiplier(terms, term) if getattr(terms, term) else None
            if factor is not None and contract.unit.endswith("_tokens"):
                rate = rate.times(factor)
        return rate


def _variant_rates(
    rows: Iterable[ListRow], at_seconds: int, corrected: set[str]
) -> dict[str, TieredRate]:
    """Return the list's own rates for some terms; a corrected unit's rate is void with it."""
    rates: dict[str, TieredRate] = {}
    for row in rows:
        if row.holds_at(at_seconds):
            for unit, rate in row.rates.items():
                if unit not in corrected:
                    rates.setdefault(unit, rate)
    return rates


def _affected_units(rows: Sequence[ListRow], rates: Mapping[str, TieredRate]) -> set[str]:
    """Return the units whose rates the terms change.

    Those that the list's rows for these terms name, whatever their dates: what such a row leaves
    out keeps its standard rate (cached input of Gemini 2.5 in batches). All tokens without a row.
    """
    if rows:
        return {unit for row in rows for unit in row.rates}
    return {unit for unit in rates if unit.endswith("_tokens")}


class PriceBook:
    """Finds the price of a call by model name, time, terms and, where given, provider."""

    def __init__(self, listed: PriceList, contracts: Sequence[ContractPrice] = ()) -> None:
        self.price_list = listed
        self._contracts = contracts
        self._timelines: dict[tuple[str | None, str], Timeline | None] = {}

    @property
    def price_keys(self) -> Mapping[str, str]:
        """The kinds of prices that can be set ("input_mtok"), with the unit that each is for."""
        return self.price_list.price_keys

    @property
    def providers(self) -> Sequence[str]:
        """Ids of all providers of the list."""
        return sorted(self.price_list.models)

    def models(self, provider: str | None = None) -> Sequence[ListedModel]:
        """Return the listed models, of one provider or of all."""
        names = self.providers if provider is None else [provider]
        return [listed for name in names for listed in self.price_list.models.get(name, ())]

    def with_contracts(self, contracts: Sequence[ContractPrice]) -> PriceBook:
        """Return the same book with the user's contract prices in force."""
        return PriceBook(self.price_list, contracts)

    def real_model(self, model: str) -> str:
        """Return the provider's id for a document's alias; other names unchanged."""
        return self.price_list.aliases.get(model.lower(), model)

    def price(
        self,
        model: str,
        at_seconds: int,
        *,
        provider: str | None = None,
        terms: Terms = STANDARD_TERMS,
    ) -> Price | None:
        """Return the price that holds for the model; None when none is known ("unpriced")."""
        timeline = self.timeline(model, provider)
        return timeline.price_at(at_seconds, terms) if timeline else None

    def cost(
        self,
        usage: Usage,
        model: str,
        at_seconds: int,
        *,
        provider: str | None = None,
        terms: Terms = STANDARD_TERMS,
    ) -> Cost | None:
        """Return what the usage costs; None when it cannot be priced."""
        price = self.price(model, at_seconds, provider=provider, terms=terms)
        return price.cost(usage) if price else None

    def timeline(self, model: str, provider: str | None = None) -> Timeline | None:
        """Return all prices of a model over time, None for an unknown model."""
        key = (provider, model)
        try:
            return self._timelines[key]
        except KeyError:
            found = self._timelines[key] = self._find(model, provider)
            return found

    def _find(self, model: str, provider: str | None) -> Timeline | None:
        name = _bare_name(self.real_model(model))
        listed = self._listed(name, provider)
        names = {self._plain_name(name), self._plain_name(listed.model if listed else name)}
        own = [row for row in self._contracts if self._plain_name(row.model) in names]
        served_by = provider or (listed.provider if listed else _only_provider(own))
        contracts = [row for row in own if row.provider in {"", served_by}]
        if listed is None and not contracts:
            return None
        return Timeline(
            listed or ListedModel(served_by, name, {"equals": name}), self.price_list, contracts
        )

    def _listed(self, name: str, provider: str | None) -> ListedModel | None:
        candidates = [provider] if provider else self._providers_of(name)
        for candidate in candidates:
            for shelf in (candidate, *self.price_list.provider_fallbacks.get(candidate, ())):
                listed = self._match(name, shelf)
                if listed is not None:
                    return listed
        prefix, slash, rest = name.partition("/")
        if slash and provider in (None, prefix) and prefix in self.price_list.models:
            return self._listed(rest, prefix)
        return None

    def _match(self, name: str, provider: str) -> ListedModel | None:
        for spelling in spellings(name):
            for listed in self.price_list.models.get(provider, ()):
                if matches(listed.match, spelling):
                    return listed
        return None

    def _plain_name(self, model: str) -> str:
        """Return the name that contracts are compared by, without "anthropic/" before it."""
        name = _bare_name(self.real_model(model))
        prefix, slash, rest = name.partition("/")
        return rest if slash and prefix in self.price_list.models else name

    def _providers_of(self, name: str) -> list[str]:
        return [
            provider
            for provider, clause in self.price_list.provider_matches
            if matches(clause, name)
        ]


MODE_TERMS = ("processing", "speed", "service_tier")
"""Terms that replace each other: a call is served on one of them at most."""

TERM_NAMES = Terms._fields


def _only_provider(contracts: Sequence[ContractPrice]) -> str:
    """Return the provider of contracts for an unlisted model; "" where they name several."""
    named = {row.provider for row in contracts if row.provider}
    return named.pop() if len(named) == 1 else ""


def _bare_name(model: str) -> str:
    """Return the name as lists have it: lower case, without a marker such as "[1m]"."""
    name = model.strip().lower()
    return name[: name.index("[")] if name.endswith("]") and "[" in name else name

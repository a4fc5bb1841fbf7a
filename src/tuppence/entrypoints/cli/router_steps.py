"""What the commands of `tuppence router` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import click

from tuppence.core.price_book import PriceBook
from tuppence.core.usage import Usage
from tuppence.errors import InvalidInput, MissingPackage, UnknownPrice
from tuppence.model_router.classifier import WEIGHTS_PATH
from tuppence.model_router.decision import TokenPrice

tiers_option = click.option(
    "--tiers",
    default="default",
    show_default=True,
    help='Models: "default", "chapter-12", or a TOML file of yours.',
)
weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=WEIGHTS_PATH,
    show_default="those of the package",
    help="Classifier that `tuppence router train` has written.",
)


@contextmanager
def told_steps(*, wanted: bool) -> Iterator[Callable[[str], None]]:
    """Show which step is under way while a terminal is watching; yield what tells the next."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich loads slowly
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=None)
        yield lambda step: shown.update(task, description=step)


def check_share(share: float, field: str) -> None:
    """Raise InvalidInput for what is no share above 0 and up to 1."""
    if not 0 < share <= 1:
        raise InvalidInput(
            "is no share", field=field, value=share, remedy="give a number above 0 and up to 1"
        )


def check_writable(path: Path, field: str) -> None:
    """Raise InvalidInput where a file cannot be written, before work or money goes into it."""
    is_there = path.exists()
    with writing(path, field):
        path.open("ab").close()
    if not is_there:
        path.unlink()


@contextmanager
def writing(path: Path, field: str) -> Iterator[None]:
    """Raise InvalidInput where what is done inside cannot write the file."""
    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"cannot be written: {error.strerror}",
            field=field,
            value=str(path),
            remedy="name a file in a directory that you may write to",
        ) from error


def token_price(book: PriceBook, model: str, at: datetime) -> TokenPrice | None:
    """Return what a model takes per token, None where it has no known price."""
    cost = book.cost(Usage(input_tokens=1_000, output_tokens=1_000), model, int(at.timestamp()))
    return None if cost is None else TokenPrice(cost.input_nanos / 1_000, cost.output_nanos / 1_000)


def known_price(book: PriceBook, model: str, at: datetime) -> TokenPrice:
    """Return what a model takes per token; raise UnknownPrice where that is not known."""
    price = token_price(book, model, at)
    if price is None:
        raise UnknownPrice(
            "has no known price",
            field="model",
            value=model,
            remedy="set one with `tuppence prices set`, or check the spelling",
        )
    return price


def require_scipy() -> None:
    """Raise MissingPackage where training cannot run."""
    try:
        import scipy  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise MissingPackage(
            "is not installed",
            field="package",
            value="scipy",
            remedy='install "tuppence[train]"',
        ) from error

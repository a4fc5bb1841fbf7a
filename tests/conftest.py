"""What every test may ask for: databases on both back-ends, and the shared data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgresql import PostgresqlMissing, PostgresqlServer
from tests.redis import RedisMissing, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """One server for the whole run, started by the first test that asks for it."""
    try:
        server = PostgresqlServer()
    except PostgresqlMissing as missing:
        # A skip would let a machine without PostgreSQL report half of the tests as a success.
        pytest.fail(str(missing), pytrace=False)
    with server:
        yield server


@pytest.fixture(scope="session")
def _shared_redis() -> Iterator[RedisServer]:
    try:
        server = RedisServer()
    except RedisMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    with server:
        yield server


@pytest.fixture
def redis_server(_shared_redis: RedisServer) -> RedisServer:
    """One server for the whole run, empty for each test."""
    _shared_redis.call("FLUSHALL")
    _shared_redis.call("CONFIG", "RESETSTAT")
    return _shared_redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Return the address of an empty Redis."""
    return redis_server.url


@pytest.fixture
def postgresql_url(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """Return the address of an empty PostgreSQL database that only this test uses."""
    name = postgresql_server.create_database()
    yield postgresql_server.url(name)
    postgresql_server.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the address of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Run the test twice: what a ledger promises, it promises on both databases."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the directory of real traces and prices that lies beside the repository."""
    told = os.environ.get("TUPPENCE_SHARED_DATA")
    directory = Path(told) if told else REPOSITORY.parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("the shared data is absent; name its directory in TUPPENCE_SHARED_DATA")
    return directory

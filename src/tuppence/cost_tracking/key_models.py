"""The table of the gateway's keys as a mapped class.

Rows are written by the operations in `tuppence.entrypoints.gateway.keys` only.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from tuppence.storage.schema import Base, UtcMicros


class GatewayKey(Base):
    """A key of the gateway: its keyed hash, who pays for its calls, what it may ask for."""

    __tablename__ = "gateway_keys"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    """Public: stands in the key itself, in lists, and in the tag `key=ID` of its calls."""
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    """HMAC-SHA256 over the whole key."""
    team: Mapped[str] = mapped_column(String(255))
    project: Mapped[str] = mapped_column(String(255))
    user_name: Mapped[str] = mapped_column(String(255))
    models: Mapped[str] = mapped_column(Text)
    """Patterns of models, one a line; empty for all."""
    created_at: Mapped[datetime] = mapped_column("created_at_micros", UtcMicros)
    created_by: Mapped[str] = mapped_column(String(255))
    revoked_at: Mapped[datetime | None] = mapped_column("revoked_at_micros", UtcMicros)
    revoked_by: Mapped[str | None] = mapped_column(String(255))

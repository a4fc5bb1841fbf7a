"""Who a call is charged to."""

from __future__ import annotations

from typing import NamedTuple

from tuppence.errors import InvalidInput

MAX_NAME_LENGTH = 255


class Attribution(NamedTuple):
    """Who pays and what for; empty strings where nothing is known.

    `session_id` and `agent_id` are kept with each call; the other fields are what reports, budgets
    and roll-ups are made by.
    """

    team_id: str = ""
    project_id: str = ""
    user_id: str = ""
    task_type: str = ""
    task_complexity: str = ""
    tags: tuple[str, ...] = ()
    """Sorted, each "name" or "name=value"."""
    session_id: str = ""
    agent_id: str = ""

    def check(self) -> Attribution:
        """Return self; raise InvalidInput for a name that is no text or too long to be one."""
        for field, value in self._asdict().items():
            for name in value if field == "tags" else (value,):
                check_name(field, name)
        return self


def check_name(field: str, value: object) -> None:
    """Raise InvalidInput unless value is a text of at most MAX_NAME_LENGTH characters."""
    if isinstance(value, str) and len(value) <= MAX_NAME_LENGTH and "\x00" not in value:
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair: text that was cut in the middle
            pass
        else:
            return
    problem = "is not a usable name"
    remedy = f"give UTF-8 text of at most {MAX_NAME_LENGTH} characters, without NUL characters"
    raise InvalidInput(problem, field=field, value=value, remedy=remedy)

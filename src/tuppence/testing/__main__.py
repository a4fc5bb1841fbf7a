"""Runs the stand-in provider until Ctrl-C: `python -m tuppence.testing --port 8088`."""

from __future__ import annotations

import argparse
import contextlib
import threading

from tuppence.testing.fake_anthropic import FakeAnthropic
from tuppence.testing.serving import serve


def main() -> None:
    """Serve, say how to use it, and wait for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tuppence.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    port = parser.parse_args().port
    with contextlib.suppress(KeyboardInterrupt), serve(FakeAnthropic(), port=port) as url:
        print(url)
        print(f"export ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=any-text")
        print("Answers are echoes, nothing is billed; Ctrl-C ends it.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

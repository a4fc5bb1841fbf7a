"""Audio, image and video tokens inside a prompt: none is in two classes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tuppence.providers.modalities import DisjointPrompt, InclusivePrompt, split_prompt

TOKENS = st.integers(min_value=0, max_value=10_000)
BY_MODALITY = st.fixed_dictionaries({}, optional=dict.fromkeys(("audio", "image", "video"), TOKENS))


def test_audio_that_must_have_been_cached():
    """900 audio of 1,000 tokens with 800 cached: at least 700 audio tokens were cached."""
    prompt = InclusivePrompt(total=1_000, cached=800, by_modality={"audio": 900})
    units = {"input_audio_tokens": 200, "cache_audio_read_tokens": 700}
    assert DisjointPrompt(plain=0, cached=100, units=units) == split_prompt(prompt)


def test_audio_that_must_have_been_written():
    """Audio beyond what was uncached or read was written, and is counted there only."""
    prompt = InclusivePrompt(total=100, cached=20, written=50, by_modality={"audio": 90})
    split = split_prompt(prompt)
    assert (split.plain, split.cached) == (0, 0)
    assert split.units == {"input_audio_tokens": 30, "cache_audio_read_tokens": 20}


@given(fresh=BY_MODALITY, read=BY_MODALITY, text=TOKENS, read_text=TOKENS, written=TOKENS)
def test_known_details_are_kept(fresh, read, text, read_text, written):
    """Where the provider tells what was cached of each modality, exactly that comes out."""
    cached = read_text + sum(read.values())
    both = {m: fresh.get(m, 0) + read.get(m, 0) for m in {**fresh, **read}}
    split = split_prompt(
        InclusivePrompt(
            total=text + sum(fresh.values()) + cached + written,
            cached=cached,
            written=written,
            by_modality=both,
            cached_by_modality=read,
        )
    )
    expected = {f"input_{m}_tokens": n for m, n in fresh.items()}
    expected |= {f"cache_{m}_read_tokens": n for m, n in read.items()}
    assert (text, read_text) == (split.plain, split.cached)
    assert {k: n for k, n in expected.items() if n} == {k: n for k, n in split.units.items() if n}


@given(data=st.data(), plain=TOKENS, cached=TOKENS, written=TOKENS)
def test_nothing_is_lost_where_details_are_missing(data, plain, cached, written):
    """Whatever share of the prompt is not text, no class is negative and all sum to the total."""
    total = plain + cached + written
    audio = data.draw(st.integers(0, total))
    image = data.draw(st.integers(0, total - audio))
    prompt = InclusivePrompt(
        total=total,
        cached=cached,
        written=written,
        by_modality={"audio": audio, "image": image},
    )
    split = split_prompt(prompt)
    counts = [split.plain, split.cached, *split.units.values()]
    assert total == sum(counts) + written
    assert min(counts) >= 0

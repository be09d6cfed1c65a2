"""How llama.cpp is set: with flash attention or without, whichever is faster."""

import pytest

from benchmarks.peers.llama_cpp import PeerEngine


@pytest.mark.parametrize("chooses", [True, False])
@pytest.mark.parametrize(("on", "off"), [(0.003, 0.001), (0.001, 0.003)])
def test_the_faster_attention_stays_and_the_other_is_freed(chooses, on, off, monkeypatch):
    engine, freed, tried = PeerEngine(), [], []
    engine.contexts, engine.chooses = [f"{chooses}"], chooses
    monkeypatch.setattr(engine, "made", lambda flash, copies: ([f"{flash}"] * copies, flash))
    monkeypatch.setattr(engine, "free", freed.extend)

    def trial():
        tried.append(engine.contexts[0])
        return (on if engine.contexts == ["True"] else off) * (10 if len(tried) <= 2 else 1)  # the first ones warm up

    monkeypatch.setattr(engine, "trial", trial)
    said = engine.tune()
    assert tried == [f"{chooses}", f"{not chooses}"] * 2
    assert engine.contexts == [f"{on < off}"] and freed == [f"{on > off}"]
    assert said == (
        f"flash attention {'on' if on < off else 'off'} (tried: off {1000 * off:.1f} ms, on {1000 * on:.1f} ms; "
        f"by itself {'on' if chooses else 'off'})"
    )

import torch
from hypothesis import given
from hypothesis import strategies as st
from llmc_lowrank.factors import Factor, Factorised
from llmc_lowrank.spectra import Candidate, energies, gram, rank_keeping, ranks_within

from llmc.ir.weights import Stored

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))


def matrix(count, size, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@given(SIZES)
def test_factors_are_the_best_approximation_of_their_rank(sizes):
    count, size, rank, seed = sizes
    rank = min(rank, count, size)
    w = matrix(count, size, seed)
    factorised = Factorised(Stored(w), rank)
    left, right = (Factor(factorised, first).evaluate() for first in (False, True))
    assert left.shape == (count, rank) and right.shape == (rank, size)
    lost = torch.linalg.svdvals(w.double())[rank:].square().sum().sqrt()
    assert abs((left @ right - w).norm() - lost) <= 1e-5 * w.norm()


@given(SIZES)
def test_energies_are_the_squares_of_singular_values(sizes):
    count, size, _, seed = sizes
    w = matrix(count, size, seed)
    squares = torch.linalg.svdvals(w.double()).square()
    assert torch.allclose(energies(gram(Stored(w).evaluate, (count, size))), squares / squares.sum(), atol=1e-9)


def test_factors_read_by_rows_are_those_read_whole():
    for count, size in ((30, 20), (20, 30)):
        factorised = Factorised(Stored(matrix(count, size)), 7)
        for factor in (Factor(factorised, True), Factor(factorised, False)):
            rows = torch.cat([factor.evaluate(i, i + 4) for i in range(0, factor.shape[0], 4)])
            assert torch.allclose(rows, factor.evaluate(), atol=1e-5)


def test_singular_vectors_are_found_once_and_not_before_they_are_read(monkeypatch):
    calls = []
    monkeypatch.setattr("llmc_lowrank.factors.gram", lambda *given: calls.append(given) or gram(*given))
    factorised = Factorised(Stored(matrix(9, 5)), 2)
    factors = [Factor(factorised, first) for first in (True, False)]
    assert not calls
    for factor in factors * 2:
        factor.parts()
    assert len(calls) == 1


def test_factors_are_stored_as_the_weight_was():
    factor = Factor(Factorised(Stored(matrix(9, 5).bfloat16()), 2), first=True)
    assert factor.parts()["values"].dtype == torch.bfloat16 and factor.bytes == 2 * 5 * 2


def test_rank_is_the_smallest_that_keeps_the_energy():
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    assert [rank_keeping(shares, energy) for energy in (0.1, 0.5, 0.51, 0.8, 0.9, 1.0)] == [1, 1, 2, 2, 3, 4]
    assert rank_keeping(torch.zeros(4), 0.9) == 4


def test_budget_goes_where_the_energy_is():
    steep = Candidate(torch.tensor([0.9, 0.06, 0.03, 0.01]), cost=20, whole=100)
    flat = Candidate(torch.tensor([0.25, 0.25, 0.25, 0.25]), cost=20, whole=100)
    first, second = ranks_within([steep, flat], 0.5)
    assert first * 20 + second * 20 <= 100 and first < second


@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99)), min_size=1, max_size=5),
    st.floats(0.3, 0.95),
)
def test_budget_is_kept_unless_rank_one_is_over_it(sizes, budget):
    candidates = []
    for count, size, seed in sizes:
        shares = energies(gram(Stored(matrix(count, size, seed)).evaluate, (count, size)))
        candidates.append(Candidate(shares, count + size, count * size))
    ranks = ranks_within(candidates, budget)
    taken = sum(min(rank * c.cost, c.whole) for rank, c in zip(ranks, candidates, strict=True))
    least = sum(c.cost for c in candidates)
    assert all(1 <= rank <= len(c.shares) for rank, c in zip(ranks, candidates, strict=True))
    assert taken <= max(budget * sum(c.whole for c in candidates), least) + 1e-6

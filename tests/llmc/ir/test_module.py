"""Programs as torch modules."""

import torch

from tests.llmc.ir.test_program import run, small_program

IDS = torch.arange(5)


def test_trainable_module_has_gradients_for_every_weight():
    module = small_program().as_module(trainable=True)
    module(IDS)["logits"].square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert "values.layers/0/norm" in dict(module.named_parameters())


def test_training_a_module_leaves_the_program_as_it_is():
    program = small_program()
    before, module = run(program), program.as_module(trainable=True)
    module(IDS)["logits"].square().sum().backward()
    torch.optim.SGD(module.parameters(), 1.0).step()
    assert torch.equal(run(program), before) and not torch.equal(module(IDS)["logits"], before[:5])


def test_module_asks_for_no_gradients_and_copies_nothing_unless_trainable():
    program = small_program()
    module = program.as_module()
    assert not module(IDS)["logits"].requires_grad
    for name, weight in program.weights.items():
        assert module.values[name.replace(".", "/")].data_ptr() == weight.tensor.data_ptr()

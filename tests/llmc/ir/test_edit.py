"""Building and changing graphs."""

import copy
from contextlib import suppress

import pytest
import torch

from llmc.errors import VerificationError
from llmc.ir import ops
from llmc.ir.formats import Integer
from llmc.ir.pattern import ANY
from llmc.ir.program import origin_of, type_of
from llmc.ir.rewrite import Rule
from llmc.ir.types import Origin
from llmc.ir.weights import Encoded, Sliced, Stored
from tests.llmc.ir.test_program import run, small_program


def test_replacement_may_read_what_it_replaces():
    program = small_program()
    editor = program.edit("clamp")
    for node in editor.nodes:
        if node.target is ops.silu:
            with editor.after(node):
                bounded = editor.op(ops.minimum, editor.op(ops.maximum, node, -0.1), 0.1)
            editor.replace(node, bounded)
    after = editor.finish()
    assert all(node.args[0].target is ops.maximum for node in after.find("minimum"))
    assert all(user.target is ops.linear for node in after.find("minimum") for user in node.users)
    assert not torch.equal(run(after), run(program))


def test_replacement_that_stands_before_takes_all_users():
    editor = small_program().edit()
    first, second = [node for node in editor.nodes if node.target is ops.add][1:3]
    editor.replace(second, first)
    assert not second.users


@pytest.mark.parametrize(
    "change",
    [
        lambda e, node: e.replace(node, node),
        lambda e, node: e.op(ops.relu, node),
        lambda e, node: e.before(node),
        lambda e, node: e.after(node),
    ],
    ids=["replace", "op", "before", "after"],
)
def test_nodes_of_another_graph_are_refused(change):
    program = small_program()
    text, editor = str(program), program.edit("mine")
    with pytest.raises(VerificationError, match=r"^'rms_norm' belongs to another graph.*copy_of"):
        change(editor, program.find("rms_norm")[0])
    assert str(program) == text


def test_copy_of_gives_the_editors_node_for_one_of_the_program():
    program = small_program()
    editor = program.edit()
    for j in program.blocks.carried:
        last, before = (editor.copy_of(program.blocks.layers[i][j]) for i in (-1, -2))
        editor.replace(last, before)
    assert len(editor.finish().find("attention")) == len(program.find("attention")) - 1
    with pytest.raises(VerificationError, match="no node of the program"):
        editor.copy_of(small_program().nodes[0])


def test_finished_editor_is_refused_and_leaves_its_program_alone():
    editor = small_program().edit()
    program, node = editor.finish(), editor.nodes[-1]
    text = str(program)
    for change in (lambda: editor.op(ops.relu, node), lambda: editor.replace(node, node), editor.finish, editor.retype):
        with pytest.raises(VerificationError, match="the editor is finished"):
            change()
    assert str(program) == text


def test_weights_of_a_program_are_read_only():
    program = small_program()
    with pytest.raises(TypeError):
        program.weights["embed"] = Stored(torch.zeros(1))
    assert copy.deepcopy(program) is program


def test_retype_follows_weights_of_another_shape():
    editor = small_program(layers=1).edit()
    for name, axis in (("layers.0.up", 0), ("layers.0.down", 1)):
        weight = editor.weights[name]
        rows = Sliced(weight, 0, 10) if axis == 0 else Stored(weight.evaluate()[:, :10])
        editor.set_weight(name, rows)
    editor.retype()
    program = editor.finish()
    assert type_of(program.find("silu")[0]).fixed == (10,) and torch.isfinite(run(program)).all()


def test_retype_names_the_node_that_no_longer_fits():
    editor = small_program(layers=1).edit()
    editor.set_weight("layers.0.up", Sliced(editor.weights["layers.0.up"], 0, 10))
    with pytest.raises(VerificationError, match="node 'linear_3' of"):
        editor.retype()


def test_set_weight_refuses_a_name_that_there_is_not():
    with pytest.raises(VerificationError, match=r"^there is no weight 'ghost'"):
        small_program().edit("mine").set_weight("ghost", Stored(torch.zeros(1)))


def test_dense_weight_in_place_of_a_quantized_one_is_refused_with_what_to_do():
    editor = small_program().edit()
    encode = lambda rows: {"values": rows.to(torch.int8), "scale": torch.ones(len(rows))}  # noqa: E731
    editor.set_weight("layers.0.up", Encoded(editor.weights["layers.0.up"], Integer(8), encode))
    editor = editor.finish().edit("prune")
    editor.set_weight("layers.0.up", Stored(torch.zeros(20, 12)))
    with pytest.raises(VerificationError, match=r"^weight 'layers.0.up' is int8 and would be f32 again.*before"):
        editor.finish()


def test_origin_is_restored_when_the_code_within_fails():
    editor = small_program().edit()
    with suppress(RuntimeError), editor.before(editor.nodes[3], Origin("inside")):
        raise RuntimeError
    assert editor.origin == Origin()


def failing(editor, match):
    editor.op(ops.relu, match["x"])
    return editor.op(ops.linear, match["x"], match["x"])


@pytest.mark.parametrize(
    ("build", "reason"),
    [(failing, "linear needs a weight"), (lambda e, m: e.op(ops.slice_, m["x"], dim=1, start=0, stop=1), "cannot become")],
)
def test_build_that_breaks_a_rule_is_a_refusal_and_leaves_nothing_behind(build, reason):
    class Report:
        name, refusals = "mine", []

        def refused(self, origin, why):
            self.refusals.append(why)

        def matched(self, origin):
            raise AssertionError

    program = small_program()
    assert program.rewrite(Rule(ops.silu(ANY.x), build), Report()) is program
    assert len(Report.refusals) == 3 and all(reason in why for why in Report.refusals)


def test_replaced_node_hands_its_identity_on_and_copies_keep_theirs():
    program = small_program(layers=1)
    after = program.rewrite(Rule(ops.silu(ANY.x), lambda e, m: e.op(ops.mul, m["x"], e.op(ops.sigmoid, m["x"]))))
    known = {node.meta["identity"]: node for node in program.nodes}
    (product,), (sigmoid,) = after.find("mul"), after.find("sigmoid")
    assert known[product.meta["identity"]] is program.find("silu")[0] and sigmoid.meta["identity"] not in known
    assert all(known[node.meta["identity"]].name == node.name for node in after.find("linear"))
    assert origin_of(product).module == origin_of(program.find("silu")[0]).module

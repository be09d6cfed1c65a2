"""Row selection sinks: after the last attention only the rows that were asked for are computed."""

from __future__ import annotations

from torch.fx import Node

from llmc.ir import ops
from llmc.ir.edit import Editor


def sink_rows(editor: Editor) -> None:
    """Put one `select_rows` on each value that passes from what attention needs to the rest; others are removed.

    Attention needs every token, for later tokens will read its keys and values. Nothing after the last attention does.
    """
    for node in editor.nodes:
        if node.target is ops.select_rows:
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            editor.graph.erase_node(node)
    needed: set[Node] = set()
    pending = [node for node in editor.nodes if node.target is ops.attention]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    for node in [n for n in editor.graph.nodes if n.op != "get_attr" and (n in needed or n.op == "placeholder")]:
        readers = [user for user in node.users if user not in needed]
        if not readers:
            continue
        with editor.after(node):
            selected = editor.op(ops.select_rows, node)
        for user in readers:
            user.replace_input_with(node, selected)
    editor.retype()

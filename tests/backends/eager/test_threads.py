"""The number of torch's threads is the whole process's: what the eager backend does about it."""

import threading

import torch

from llmc.backends.eager import backend as eager


def test_eager_steps_in_several_threads_leave_torch_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    entered, inside, left = (threading.Event() for _ in range(3))
    seen = []

    def first():
        with eager.single_thread():
            entered.set()
            inside.wait(0.3)
            seen.append(torch.get_num_threads())
        left.set()

    def second():
        entered.wait()
        with eager.single_thread():
            inside.set()
            left.wait()
            seen.append(torch.get_num_threads())

    try:
        run_together(first, second)
        run_together(lambda: seen.append(torch.get_num_threads()))  # a new thread has what was set last
        with eager.single_thread(), eager.single_thread():
            seen.append(torch.get_num_threads())
        assert [*seen, torch.get_num_threads()] == [1, 1, 2, 1, 2]
    finally:
        torch.set_num_threads(before)


def run_together(*bodies):
    """Each in a thread of its own."""
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

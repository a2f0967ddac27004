"""Work behind other work: in order, one piece at a time, and no error is lost."""

import threading
from concurrent.futures import Future

import pytest
import torch

from dalle.sampling import behind
from dalle.sampling.behind import Behind

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["at once", "beside"])
def beside(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there is a thread for it."""
    monkeypatch.setattr(behind, "runs_beside", lambda device: request.param)
    return request.param


def test_results_come_in_order_and_one_piece_runs_at_a_time(beside: bool) -> None:
    running, most = 0, 0

    def piece(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threading.Event().wait(0.002 * (number % 3))
        running -= 1
        return number

    with Behind[int](CPU) as work:
        for number in range(9):
            work.add(lambda number=number: piece(number))
        assert work.results() == list(range(9))
    assert most == 1


def test_the_caller_goes_on_and_waits_before_it_leaves_a_second_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(behind, "runs_beside", lambda device: True)
    go_on, seen = threading.Event(), Future[str]()

    def piece() -> str:
        assert go_on.wait(10)
        return threading.current_thread().name

    with Behind[str](CPU) as work:
        work.add(piece)  # returns although the piece waits
        second = threading.Thread(target=lambda: (work.add(lambda: "2"), seen.set_result("left")))
        second.start()
        with pytest.raises(TimeoutError):
            seen.result(0.05)
        go_on.set()
        assert seen.result(10) == "left"
        second.join()
        first, then = work.results()
    assert first != threading.current_thread().name
    assert then == "2"


def test_an_error_reaches_the_caller(beside: bool) -> None:
    def fail() -> int:
        raise torch.OutOfMemoryError("no room")

    def three() -> None:
        with Behind[int](CPU) as work:
            work.add(fail)
            work.add(lambda: 1)
            work.add(lambda: 2)

    def last() -> None:
        with Behind[int](CPU) as work:
            work.add(fail)
            work.results()

    for use in (three, last):
        with pytest.raises(torch.OutOfMemoryError, match="no room"):
            use()


def test_an_interrupt_of_the_caller_ends_it_after_the_piece_in_hand(beside: bool) -> None:
    before, done = threading.active_count(), []

    def interrupted() -> None:
        with Behind[None](CPU) as work:
            work.add(lambda: done.append(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == [1]
    assert threading.active_count() == before

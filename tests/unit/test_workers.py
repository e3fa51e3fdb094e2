"""Processes of a benchmark: who waits for whom, why one failed, what an interrupt does."""

import os
import signal
import sys
import threading
import time

import pytest

from expunge.workers import Job, environment, last_line, next_job, why_failed, work_off


def job(folder, name, code, group="g"):
    return Job(name, group, (sys.executable, "-S", "-c", code), folder / f"{name}.log")


def carry_out(jobs, processes=1, made=()):
    told = []
    work_off(
        jobs, set(made), processes, lambda job: told.append(("start", job.name)), lambda job, why: told.append(
            (job.name, why)
        )
    )  # fmt: skip
    return told


def test_jobs_are_done_in_order_and_a_failure_stops_nobody(tmp_path):
    jobs = [
        job(tmp_path, "a", "pass"),
        job(tmp_path, "b", "import sys; print('warning', file=sys.stderr); sys.exit('error: no such target')"),
        job(tmp_path, "c", "pass"),
        job(tmp_path, "d", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "e", "1 / 0"),
        job(tmp_path, "f", "raise SystemExit(3)"),
    ]
    assert carry_out(jobs) == [
        ("start", "a"), ("a", ""),
        ("start", "b"), ("b", "no such target"),
        ("start", "c"), ("c", ""),
        ("start", "d"), ("d", "killed by signal 9 (out of memory?)"),
        ("start", "e"), ("e", "ZeroDivisionError: division by zero"),
        ("start", "f"), ("f", "exit code 3"),
    ]  # fmt: skip
    found = [why_failed(job.log) for job in jobs]
    assert [bool(why) for why in found] == [False, True, False, True, True, True]
    assert found[4] == "ZeroDivisionError: division by zero"
    assert (tmp_path / "b.log").read_text().count("error: ") == 1


def test_those_of_a_group_wait_for_the_first_that_succeeds():
    jobs = [Job(name, name[0], (), None) for name in ("a1", "a2", "b1", "a3")]
    a1, a2, b1, a3 = jobs
    assert next_job(jobs, [], set()) is a1
    assert next_job([a2, b1, a3], [a1], set()) is b1
    assert next_job([a2, a3], [a1, b1], set()) is None
    assert next_job([a2, a3], [a1, b1], {"a"}) is a2


def test_a_job_waits_for_those_that_it_takes_something_over_from():
    first, other = (Job(name, "g", (), None) for name in ("first", "other"))
    later = Job("later", "g", (), None, frozenset({"first"}))
    assert next_job([later, first, other], [], {"g"}) is first
    assert next_job([later, other], [first], {"g"}) is other
    assert next_job([later], [first, other], {"g"}) is None
    assert next_job([later], [other], {"g"}) is later  # also when the first has failed


def test_two_at_once_and_the_group_in_turn(tmp_path):
    """The second of group g begins when the first has failed, since nothing has been made yet."""
    slow = "import time; time.sleep(0.3)"
    jobs = [
        job(tmp_path, "a", f"{slow}; raise SystemExit(1)", "g"),
        job(tmp_path, "b", slow, "g"),
        job(tmp_path, "c", "print('said')", "h"),
    ]
    told = carry_out(jobs, processes=2)
    assert told[:2] == [("start", "a"), ("start", "c")]
    assert told.index(("a", "exit code 1")) < told.index(("start", "b"))
    assert (tmp_path / "c.log").read_text() == "said\n"  # beside others it does not write to the terminal


def test_an_interrupt_is_passed_on_once_and_waited_for(tmp_path):
    patient = """
import pathlib, signal, sys, time
def note(*_):
    path = pathlib.Path(sys.argv[1]); path.write_text(path.read_text() + "x" if path.exists() else "x")
    time.sleep(0.2); path.write_text(path.read_text() + " saved"); sys.exit(2)
signal.signal(signal.SIGINT, note)
pathlib.Path(sys.argv[1] + ".ready").write_text("")
time.sleep(20)
"""
    mark = tmp_path / "mark"
    jobs = [
        Job("a", "g", (sys.executable, "-S", "-c", patient, str(mark)), tmp_path / "a.log"),
        job(tmp_path, "b", "pass", "h"),
    ]

    def press():
        while not mark.with_name("mark.ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    started = []
    with pytest.raises(KeyboardInterrupt):
        work_off(jobs, set(), 1, lambda job: started.append(job.name), lambda job, why: None)
    thread.join()
    assert mark.read_text() == "x saved"
    assert started == ["a"]
    assert why_failed(tmp_path / "a.log") == ""


def test_devices_and_processors_are_shared_out(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [environment(place, 3, ["4", "6"])["CUDA_VISIBLE_DEVICES"] for place in range(3)] == ["4", "6", "4"]
    assert environment(0, 3, [])["OMP_NUM_THREADS"] == "2"
    assert "OMP_NUM_THREADS" not in environment(0, 1, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert environment(0, 3, [])["OMP_NUM_THREADS"] == "5"


def test_the_last_line_that_is_not_blank(tmp_path):
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_bytes(b"one\n\xff two \n\n  \n")
    assert last_line(path) == "� two"

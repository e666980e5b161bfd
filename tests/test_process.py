"""The process around the models: forks, the end of the process, interrupts. Each in a process of
its own, which must end by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.tiny_hf import write_tiny_hf

TOOLS = """[{"name": "weather", "parameters": {"type": "object",
    "properties": {"city": {"type": "string"}}, "required": ["city"]}}]"""

HEAD = f"""
import gc, os, sys, threading, time
from concurrent.futures import Future
from toolprm_lite import SearchConfig, Searcher, SearchQueue, SearchRequest
from toolprm_lite.errors import ModelError
from toolprm_lite.search.future import ResultFuture

TOOLS = {TOOLS}
CONFIG = SearchConfig(strategy="step-beam", beams=2, expand=4, max_tokens=40)
LONG = SearchConfig(
    strategy="best-of-n", samples=8, max_tokens=400, max_text_tokens=400, constrain="off"
)

def opened(threads=1):
    return Searcher.from_model(sys.argv[1], threads=threads, context=2048)

def child(work):
    # 0 when `work` ends in the child, whose exit runs as any process's does.
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    return "hangs"
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_hf(tmp_path_factory.mktemp("tiny") / "hf")


def run(script: str, model: Path) -> subprocess.CompletedProcess[str]:
    code = HEAD + textwrap.dedent(script)
    return subprocess.run(
        [sys.executable, "-c", code, str(model)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},  # two threads on a busy core else spin
    )


DOORS = """
import asyncio
ASKED = ("Rain in Oslo?", TOOLS, CONFIG)

async def read():
    return [event async for event in searcher.astream(*ASKED)]

def doors(searcher, queue, future, stream):
    return {
        "search": lambda: searcher.search(*ASKED),
        "search_many": lambda: searcher.search_many([ASKED[:2]]),
        "stream": lambda: next(searcher.stream(*ASKED)),
        "open stream": lambda: next(stream),
        "asearch": lambda: asyncio.run(searcher.asearch(*ASKED)),
        "astream": lambda: asyncio.run(read()),
        "queue.search": lambda: queue.search(*ASKED),
        "queue.submit": lambda: queue.submit(*ASKED),
        "len": lambda: len(queue),
        "future": lambda: future.result(),
        "exception": lambda: future.exception(),
        "forget": lambda: searcher.forget(),
        "reward": lambda: searcher.reward("policy"),
        "backend": lambda: searcher.engine.backend.tokenize("x"),
    }

def refused(doors):
    for name, door in doors.items():
        try:
            door()
        except ModelError as error:
            assert "opened before a fork; open it again" in str(error), (name, error)
        else:
            raise AssertionError(f"{name} was let in")
"""


@forks
@pytest.mark.parametrize("moment", ["idle", "searching", "queue", "stream"])
def test_a_forked_child_must_open_its_own_model(tiny_gguf: Path, moment: str) -> None:
    script = DOORS + textwrap.dedent(f"""
    moment = {moment!r}
    searcher = opened(threads=2)  # OpenMP's own threads are not in the child
    usual = searcher.search(*ASKED).text
    queue = SearchQueue(searcher)
    stream = searcher.stream(*ASKED)
    if moment in ("idle", "stream"):
        next(stream)
    future = ResultFuture(searcher.engine.lock)  # one that has not ended
    working = queue.submit("Rain in Rome?", TOOLS, LONG)
    done = threading.Event()

    def keep_on():
        while not done.is_set():
            searcher.search("Rain in Rome?", TOOLS, LONG)

    def work():
        refused(doors(searcher, queue, future, stream))
        own = opened(threads=2)
        assert own.search(*ASKED).text == usual
        assert SearchQueue(own).search(*ASKED).text == usual
        searcher.close()

    if moment == "searching":
        threading.Thread(target=keep_on, daemon=True).start()
    codes = []
    for _ in range(3):
        codes.append(child(work))
        time.sleep(0.02)
    done.set()
    stream.close()
    working.result()
    assert searcher.search(*ASKED).text == usual
    assert codes == [0] * 3, codes
    """)
    ended = run(script, tiny_gguf)
    assert ended.returncode == 0, ended.stderr


@forks
def test_a_forked_child_opens_its_own_torch_model(tiny_folder: Path) -> None:
    ended = run(
        DOORS
        + textwrap.dedent("""
    searcher = opened(threads=2)
    usual = searcher.search(*ASKED).text
    queue = SearchQueue(searcher)

    def work():
        stream = searcher.stream(*ASKED)
        refused({"search": lambda: searcher.search(*ASKED),
                 "queue": lambda: queue.search(*ASKED), "stream": lambda: next(stream),
                 "backend": lambda: searcher.engine.backend.tokenize("x")})
        assert opened(threads=2).search(*ASKED).text == usual

    code = child(work)
    assert code == 0, code
    """),
        tiny_folder,
    )
    assert ended.returncode == 0, ended.stderr


WORK = {
    "search": "searcher.search(question, TOOLS, LONG)",
    "constrained": "searcher.search(question, TOOLS, CONFIG)",
    "queue": "queue.search(question, TOOLS, LONG)",
    "stream": "list(searcher.stream(question, TOOLS, LONG))",
    "open": "opened()",
}
ENDS = {
    "end": ("", 0),
    "exit": ("sys.exit(3)", 3),
    "interrupt": ("raise KeyboardInterrupt", -signal.SIGINT),
}


def ends_while(work: str, end: str, model: Path, delay: float) -> None:
    statement, code = ENDS[end]
    ended = run(
        f"""
    searcher = opened()
    queue = SearchQueue(searcher, length=1000)

    def keep_on():
        count = 0
        while True:
            count += 1
            question = f"Rain in Oslo on day {{count}}?"
            {WORK[work]}

    for _ in range(3):
        threading.Thread(target=keep_on, daemon=True).start()
    time.sleep({delay})
    {statement}
    """,
        model,
    )
    assert ended.returncode == code, ended.stderr
    assert ("Traceback" in ended.stderr) == (end == "interrupt"), ended.stderr


@pytest.mark.parametrize(
    ("work", "end"),
    [
        ("search", "exit"), ("constrained", "end"), ("queue", "end"), ("stream", "interrupt"),
        ("open", "exit"),
    ],
)  # fmt: skip
def test_the_process_ends_while_daemon_threads_search(tiny_gguf: Path, work: str, end: str) -> None:
    ends_while(work, end, tiny_gguf, 0.3)


def test_the_process_ends_while_daemon_threads_search_with_torch(tiny_folder: Path) -> None:
    ends_while("queue", "exit", tiny_folder, 0.3)


def test_a_model_that_is_used_by_an_exit_handler_is_closed(tiny_gguf: Path) -> None:
    ended = run(
        """
    import atexit

    searcher = None

    def late():
        searcher.close()
        try:
            searcher.search("Rain in Oslo?", TOOLS, CONFIG)
        except ModelError as error:
            print(error)

    import toolprm_lite.process as process
    atexit.unregister(process._exit)
    atexit.register(late)
    atexit.register(process._exit)  # runs first
    searcher = opened()
    """,
        tiny_gguf,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "the model is closed" in ended.stdout


def test_interrupts_at_any_moment_change_no_answer(tiny_gguf: Path) -> None:
    ended = run(
        """
    import random, signal

    searcher = opened()
    queue = SearchQueue(searcher)
    questions = [f"Rain in {city}?" for city in ("Oslo", "Rome", "Lima")]

    def ask(question):
        return searcher.search(question, TOOLS, CONFIG)

    usual = {}
    for question in questions:
        searcher.forget()
        began = time.monotonic()
        usual[question] = ask(question).text
    seconds = time.monotonic() - began
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    random = random.Random(0)
    interrupted = 0
    for turn in range(60):
        way = (ask, lambda q: queue.search(q, TOOLS, CONFIG))[turn % 2]
        ended = False
        try:
            signal.setitimer(signal.ITIMER_REAL, random.random() * seconds)
            way(questions[turn % 3])
            ended = True
            time.sleep(60)  # until the interrupt comes
        except KeyboardInterrupt:
            interrupted += not ended
        question = questions[(turn + 1) % 3]
        found = ask(question).text
        assert found == usual[question], (turn, found, usual[question])
    print(interrupted)
    """,
        tiny_gguf,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 3


def test_one_log_callback_serves_all_models(tiny_gguf: Path) -> None:
    """llama.cpp may be in it in any thread, so none is ever freed."""
    ended = run(
        """
    from toolprm_lite.backends.llamacpp import library

    first = opened()
    callback = library._log_callback
    second = Searcher.from_model(sys.argv[1], context=512, verbose=True)
    third = Searcher.from_model(sys.argv[1], context=512)
    assert library._log_callback is callback
    assert not library._verbose
    """,
        tiny_gguf,
    )
    assert ended.returncode == 0, ended.stderr
    assert "llama_model_loader" in ended.stderr

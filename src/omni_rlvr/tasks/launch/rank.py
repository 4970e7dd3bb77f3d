"""The process of one rank: ``python -m omni_rlvr.tasks.launch.rank``, which only ``launch`` starts.

It reads its job from standard input, joins the other ranks, does the task, and writes its outcome
to a file. It prints no error, because the process that launched it does.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
import time
import traceback

from torch import distributed

from omni_rlvr import stopping
from omni_rlvr.rewards.watchdog.time_limit import reported_in
from omni_rlvr.tasks.build import build_one
from omni_rlvr.tasks.launch.job import Job, Outcome, hung_file, outcome_file
from omni_rlvr.tasks.table import register
from omni_rlvr.text.terminal import keep_printing
from omni_rlvr.training.devices import take_device
from omni_rlvr.types import Interrupted, UserError


def main() -> None:
    """Do the job of a rank and end the process."""
    stopping.listen()
    keep_printing()
    job: Job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    sys.argv = list(job.command)
    outcome = _done(job)
    partial = job.folder / f".{job.rank}.partial"
    partial.write_bytes(pickle.dumps(outcome))
    partial.replace(outcome_file(job.folder, job.rank))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(
        0 if outcome.kind == "finished" else 1
    )  # does not wait for other ranks, which may hang


def _done(job: Job) -> Outcome:
    """Do the task and return how it ended."""
    try:
        _log_to(job)
        register()
        cuda = take_device(job.config.trainer, job.rank).type == "cuda"
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method=f"file://{job.folder}/meeting",
            rank=job.rank,
            world_size=job.num_ranks,
        )
        with reported_in(outcome_file=hung_file(job.folder, job.rank)):
            build_one(job.config, job.run_dir, job.latest).run()
    except BaseException as error:
        kinds = {Interrupted: "interrupted", KeyboardInterrupt: "cut", UserError: "user"}
        kind = next((k for known, k in kinds.items() if isinstance(error, known)), "failed")
        text = traceback.format_exc()
        return Outcome(kind, type(error).__name__, str(error), traceback=text, at=time.time())
    return Outcome("finished", "", "", traceback="", at=time.time())


def _log_to(job: Job) -> None:
    """Log as the launching process does; ranks other than 0 log errors only."""
    outputs: list[logging.Handler] = [logging.StreamHandler(sys.stdout)]
    if job.rank == 0:
        outputs += [logging.FileHandler(name, encoding="utf-8") for name in job.log_files]
    else:
        outputs = [logging.StreamHandler(sys.stderr)]
    level = logging.INFO if job.rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=outputs)


def _end_with_launcher() -> None:
    """End this process when the process that launched it has ended.

    It reads the file descriptor itself, because reading ``sys.stdin`` would hold the lock of its
    buffer: data workers, which are forks, would wait for that lock when they close their copy.
    """
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()

"""--profile N: a trace of N steps for chrome://tracing or ui.perfetto.dev, and on a GPU its memory over them.

Every rank writes its own into the run's folder:

profile/step-00000005-rank0.trace.json
        step-00000005-rank0.memory.pickle      for pytorch.org/memory_viz
"""

import tempfile
from pathlib import Path

import torch

from dgseg.training.listener import Listener, ProfileReport
from dgseg.training.storage import Storage
from dgseg.training.world import World

FOLDER = "profile"
WARM_UP = 3  # steps of this process that are not recorded: libraries choose their algorithms in them
MEMORY_EVENTS = 100_000


class Profile:
    def __init__(self, steps: int, folder: Storage, world: World, listener: Listener) -> None:
        self.steps, self.folder, self.world, self.listener = steps, folder, world, listener
        self._seen = 0
        self._first = 0
        self._profiler: torch.profiler.profile | None = None
        self._span: torch.profiler.record_function | None = None  # of the step under way, in the trace

    def next_step(self, step: int) -> None:
        """Before every step."""
        if self._seen == WARM_UP:
            self._start(step)
        elif self._seen == WARM_UP + self.steps:
            self.finish()
        self._seen += 1
        self._mark(f"step {step}" if self._profiler is not None else None)

    def finish(self) -> None:
        """Writes what was recorded. A run that ends sooner has fewer steps in it."""
        if self._profiler is None:
            return
        self._mark(None)
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        name = f"step-{self._first:08d}-rank{self.world.rank}"
        files = []
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / f"{name}.trace.json"
            profiler.export_chrome_trace(str(trace))
            files.append(trace)
            if self.world.device.type == "cuda":
                memory = Path(folder) / f"{name}.memory.pickle"
                torch.cuda.memory._dump_snapshot(str(memory))
                torch.cuda.memory._record_memory_history(enabled=None)
                files.append(memory)
            for file in files:
                self.folder.upload(file, f"{FOLDER}/{file.name}")
        urls = tuple(self.folder.where(f"{FOLDER}/{file.name}") for file in files)
        if self.world.first:
            self.listener.on_profile(ProfileReport(self._first, urls))

    def _start(self, step: int) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.world.device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._first = step
        self._profiler = torch.profiler.profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def _mark(self, name: str | None) -> None:
        if self._span is not None:
            self._span.__exit__(None, None, None)
        self._span = None if name is None else torch.profiler.record_function(name)
        if self._span is not None:
            self._span.__enter__()

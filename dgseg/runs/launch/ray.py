"""A recipe on Ray Train: the same loop in every worker, and this process, the driver, to show what they do.

What a run needs to go on lies in its own checkpoints, which every restarted worker finds by itself. Ray keeps none, and
so has nothing that could disagree with them.
"""

import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import ray
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dgseg.runs.launch.command import Command
from dgseg.runs.launch.controller import Failures
from dgseg.runs.launch.driver import stream_messages
from dgseg.runs.launch.elastic import EvenTrainer
from dgseg.runs.launch.mailbox import Mailbox
from dgseg.runs.launch.worker import Job, work
from dgseg.training.listener import Listener
from dgseg.training.memory import KEEP_FREED
from dgseg.training.storage import open_storage
from dgseg.training.train import RunResult, train


def run_on_ray(
    command: Command,
    *,
    listeners: Callable[[], Sequence[Listener]] = tuple,
    screen: Sequence[Listener] = (),
    loop: Callable[..., RunResult] = train,
) -> RunResult:
    """On the cluster that this process has joined.

    listeners: makes those that are heard in the workers.
    screen: hears in this process what the first worker reports, and may ask to stop.
    loop: what every worker runs."""
    command = replace(command, run=replace(command.run, storage=absolute_storage(command.run.storage)))
    storage = open_storage(command.run.storage)
    storage.check_writable()
    # Of this launch alone: a second one of the name, which is refused, takes its own away and not the first one's.
    mark = f".launched-{command.run.name or command.recipe.name}-{uuid.uuid4().hex}"
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        storage.write(mark, b"")
        with tempfile.TemporaryDirectory(prefix="dgseg-ray-") as folder:
            job = Job(command, listeners, mailbox, mark, loop)
            trainer = _trainer(job, folder)
            return stream_messages(trainer, mailbox, screen, lambda: _describe_wait(command))
    finally:
        storage.delete(mark)
        ray.kill(mailbox)


def _trainer(job: Job, folder: str) -> TorchTrainer:
    recipe, run, launch = job.command.recipe, job.command.run, job.command.launch
    # Ray Train reads these here: workers stay in the driver's folder, where relative paths mean the same.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    needs = resources_per_worker(job.command)
    elastic = launch.min_workers not in (None, launch.workers)
    kind = partial(EvenTrainer, sizes=job.command.sizes()) if elastic else TorchTrainer
    return kind(
        work,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=int(run.timeout)),
        scaling_config=ScalingConfig(
            num_workers=(launch.min_workers, launch.workers) if elastic else launch.workers,
            use_gpu="GPU" in needs,
            resources_per_worker=needs,
        ),
        run_config=RunConfig(
            name=run.name or recipe.name,
            storage_path=folder,  # of Ray's own, which stays empty
            failure_config=FailureConfig(max_failures=launch.failures),
            callbacks=[Failures(job.mailbox, launch.failures)],
            logging_config=LoggingConfig(log_level="CRITICAL"),  # the driver says it, once and shorter
            worker_runtime_env={"env_vars": KEEP_FREED},
        ),
    )


def resources_per_worker(command: Command) -> dict[str, float]:
    """What Ray sets aside for a worker."""
    launch, device = command.launch, command.run.device
    gpus, offered = launch.gpus_per_worker, ray.cluster_resources().get("GPU", 0)
    if gpus is None:
        gpus = 1 if device == "cuda" or (device == "auto" and offered >= launch.workers) else 0
    if gpus and device == "cpu":
        raise ValueError(f"--gpus-per-worker {gpus} and --device cpu contradict each other: drop one")
    grows = launch.address or os.environ.get("RAY_ADDRESS")
    wanted = gpus * (launch.min_workers or launch.workers)
    if wanted > offered and not grows:
        has = f"{offered:g} of them" if offered else "no GPU"
        raise ValueError(f"{wanted} GPUs are asked for, and this machine has {has}; --device cpu does without")
    return {"CPU": launch.cpus_per_worker or 1, **({"GPU": gpus} if gpus else {})}


def absolute_storage(storage: str) -> str:
    """A job's folder is a copy that Ray deletes, and no place for runs: relative paths count from the home there."""
    if "://" in storage or Path(storage).is_absolute():
        return storage
    shipped = ray.get_runtime_context().runtime_env.get("working_dir")
    return str((Path.home() if shipped else Path.cwd()) / Path(storage).expanduser())


def _describe_wait(command: Command) -> str:
    launch = command.launch
    needs = " and ".join(f"{count:g} {name}s" for name, count in resources_per_worker(command).items())
    offered = ray.cluster_resources()
    has = " and ".join(f"{offered.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
    count = launch.workers if launch.min_workers is None else f"{launch.min_workers} to {launch.workers}"
    return (
        f"waiting for {count} workers of {needs} each; the cluster has {has} in all, some of them perhaps taken. "
        f"Ctrl-C gives up; --workers, --cpus-per-worker and --gpus-per-worker ask for less"
    )

"""A model scored on data sets in one pass, in memory that does not grow with them.

Everything that is found is an integer count: several ranks take turns at the batches, add up their counts at the end,
and every rank then holds the same Evaluation."""

import importlib.util
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from queue import SimpleQueue
from types import MappingProxyType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dgseg.data.dataset import DataError, Dataset
from dgseg.evaluation.counting import Counts, Seeing
from dgseg.evaluation.loading import Batches, Loaded, load
from dgseg.evaluation.protocols import Protocol, by_dataset
from dgseg.evaluation.result import DomainResult, Evaluation
from dgseg.evaluation.scorers import SCORERS, STANDARD, Scorer, needs_own_pass
from dgseg.models.base import SegmentationModel

EXTRAS = ("boundary", "calibration", "ood", "components", "images")


def evaluate(
    model: SegmentationModel,
    datasets: Sequence[Dataset],
    protocol: Protocol,
    *,
    batch_size: int = 4,
    workers: int = 0,
    device: torch.device | str = "cpu",
    group: dist.ProcessGroup | None = None,
    extras: Collection[str] = (),
    classes: Sequence[int] | None = None,
    autocast: torch.dtype | None = None,
    on_image: Callable[[Seeing], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    limit: int | None = None,
) -> Evaluation:
    """Scores per domain, and of ACDC per condition.

    model: on `device`, whole on every rank; its modes are put back afterwards. batch_size: images at once, or windows
    of one image where the protocol has windows. workers: processes that load. classes: score these alone. on_image,
    progress (done, of how many): of this rank's images. on_image is called in the threads that score, in any order.

    extras: what else to count. "boundary": error by distance, boundary IoU. "calibration". "ood": how well pixels of no
    class are found, by each of `scorers` (None: scorers.STANDARD, what costs no more than the logits). "components": of
    those, in a second pass over the data sets that have such pixels. "images": each one's counts, for a paired
    bootstrap. limit: at most this many images of each data set.

    An image that cannot be read is named in the result, skipped and counted. Any other error on any rank ends all.
    On a CPU as many batches are in memory as torch has threads: torch.set_num_threads bounds both.
    """
    device = torch.device(device)
    if scorers is None:
        scorers = {name: SCORERS[name] for name in STANDARD}
    check(datasets, protocol, batch_size=batch_size, workers=workers, extras=extras, scorers=scorers)
    if next(model.parameters()).device.type != device.type:
        raise ValueError(f"the model is on {next(model.parameters()).device}, not on {device}: call model.to(device)")
    counts = Counts(
        model,
        datasets,
        protocol,
        batch_size,
        device,
        frozenset(extras),
        classes,
        autocast,
        on_image,
        scorers if "ood" in extras else {},
        limit,
    )
    seconds, corrupt = _pass(counts, workers, group, progress)
    if "components" in extras:
        second = counts.for_components(by_dataset(counts.results))
        seconds += _pass(second, workers, group, progress)[0]
        for domain, found in second.results.items():
            counts.results[domain] = replace(counts.results[domain], components=found.components)
    results = {name: _without_void(result) for name, result in by_dataset(counts.results).items()}
    return Evaluation(results, protocol, corrupt, seconds)


def _pass(
    counts: Counts, workers: int, group: dist.ProcessGroup | None, progress: Callable[[int, int], None] | None
) -> tuple[float, dict[str, str]]:
    """Over all images once; then every rank holds all counts. The slowest one's seconds, and what could not be read."""
    rank, world_size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    batches = Batches(counts.datasets, counts.protocol, counts.batch_size, bool(counts.scorers), counts.limit)
    mine = range(rank, len(batches), world_size)
    total, done, error = batches.images(mine), 0, None
    began = time.perf_counter()
    try:
        loads = load(batches, mine, workers=workers, pin=counts.device.type == "cuda")
        with scoring(counts.model), closing(loads), closing(_counted(counts, loads)) as counted:
            for loaded in counted:
                for each in loaded.corrupt:
                    counts.skip(each.dataset, each.index, each.reason)
                done += len(loaded.corrupt) + sum(len(shown.indices) for shown in loaded.shown)
                if progress is not None:
                    progress(done, total)
    except Exception as found:
        if group is None:
            raise
        error = found
    # A rank that fails tells the others, which would wait for its counts otherwise.
    agreed = _agreed(error, time.perf_counter() - began, counts.corrupt, group)
    if group is not None and counts.results:
        _add_up(counts.tensors(), group)
    return agreed


def _counted(counts: Counts, batches: Iterator[Loaded]) -> Generator[Loaded]:
    """The batches, each after it was counted.

    On a CPU as many at once as torch has threads, each on one: what a model computes in several threads depends, in
    its last digits, on how many they are."""
    if counts.device.type != "cpu":
        for loaded in batches:
            counts.count(loaded)
            yield loaded
        return
    threads = torch.get_num_threads()
    # What torch.compile made runs in one thread at a time.
    parts = [counts.empty() for _ in range(1 if counts.compiled else threads)]
    free: SimpleQueue[Counts] = SimpleQueue()
    for part in parts:
        free.put(part)

    def count(loaded: Loaded) -> Loaded:
        part = free.get()
        try:
            part.count(loaded)
        finally:
            free.put(part)
        return loaded

    pending: deque[Future[Loaded]] = deque()
    pool = ThreadPoolExecutor(len(parts), initializer=torch.set_num_threads, initargs=(1,))
    try:
        for loaded in batches:
            pending.append(pool.submit(count, loaded))
            if len(pending) > len(parts):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # of threads that are made from now on
    for part in parts:
        for whole, added in zip(counts.tensors(), part.tensors(), strict=True):
            whole += added


def check(
    datasets: Sequence[Dataset],
    protocol: Protocol,
    *,
    batch_size: int,
    workers: int,
    extras: Collection[str],
    scorers: Mapping[str, Scorer] = MappingProxyType({}),
) -> None:
    """Everything that can be refused before an image is loaded."""
    own = [name for name, scorer in scorers.items() if needs_own_pass(scorer)]
    if "ood" in extras and own and protocol.window:
        raise ValueError(f"{' and '.join(own)}: scored on whole images alone; take the protocol native, or leave out")
    if "components" in extras and "ood" not in extras:
        raise ValueError("components are counted at a threshold that ood finds: ask for both")
    if not datasets:
        raise ValueError("there is no data set to score on")
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size must be at least 1 and workers at least 0; got {batch_size} and {workers}")
    if strange := sorted(set(extras) - set(EXTRAS)):
        raise ValueError(f"extras may be {', '.join(EXTRAS)}; got {', '.join(strange)}")
    if "components" in extras and importlib.util.find_spec("scipy") is None:
        raise ValueError("components need scipy: pip install 'dgseg[evaluation]', or leave them out")
    for dataset in datasets:
        if len(dataset) == 0:
            raise DataError(f"{dataset.name} has no samples: mend its list of files")
        protocol.image_size(dataset.name, (1, 1))
        if protocol.others == "refused" and getattr(dataset, "resized", False):
            raise DataError(
                f"the protocol {protocol.name} compares at the size of the labels as they were published, and those of "
                f"{dataset.domain} were resized when they were packed: score the files themselves, or use native"
            )
    names = [dataset.domain for dataset in datasets]
    for place, name in enumerate(names):
        # "acdc" would hold "acdc/fog" twice.
        if name in names[:place] or (name.partition("/")[0] != name and name.partition("/")[0] in names):
            raise DataError(
                f"two data sets go by the name of {name.partition('/')[0]}: their scores would be one. Score them one "
                "after the other, or give a folder a name of its own (domain=…)"
            )


def _without_void(result: DomainResult) -> DomainResult:
    """Of out-of-distribution scores keep those that were given, where there was something to find."""
    ood = {kind: tally for kind, tally in result.ood.items() if bool(tally.counts["scores"][1].any())}
    return replace(result, ood=ood)


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """In eval mode; afterwards every module is in the mode that it was in, frozen ones too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _agreed(
    error: Exception | None, seconds: float, corrupt: dict[str, str], group: dist.ProcessGroup | None
) -> tuple[float, dict[str, str]]:
    """The slowest rank's time and all ranks' corrupt files; an error if any rank had one."""
    if group is None:
        return seconds, corrupt
    said: list[tuple[str, float, dict[str, str]]] = [("", 0.0, {})] * dist.get_world_size(group)
    words = "" if error is None else f"{type(error).__name__}: {error}"
    dist.all_gather_object(said, (words, seconds, corrupt), group=group)
    if error is not None:
        raise error
    for rank, (words, _, _) in enumerate(said):
        if words:
            raise ValueError(f"rank {rank} could not score its images: {words}")
    named = {sample: reason for _, _, found in said for sample, reason in found.items()}
    return max(seconds for _, seconds, _ in said), dict(sorted(named.items()))


def _add_up(counts: Sequence[Tensor], group: dist.ProcessGroup) -> None:
    """In one exchange; NCCL adds up on GPUs alone, gloo anywhere."""
    where = torch.device("cuda", torch.cuda.current_device()) if "nccl" in dist.get_backend(group) else "cpu"
    flat = torch.cat([count.flatten().to(where) for count in counts])
    dist.all_reduce(flat, group=group)
    for count, total in zip(counts, flat.split([count.numel() for count in counts]), strict=True):
        count.copy_(total.view(count.shape))

"""The loader: the same pixels for any number of workers, ranks and restarts; corrupt files; crashes; memory."""

import logging
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from dgseg.data.dataset import DataError
from dgseg.data.loader import Loader, Target
from dgseg.data.sample import Sample
from dgseg.data.samplers import Hardness, HardnessConfig, Mixture, RareClass, Uniform
from dgseg.data.workers import START_METHOD
from dgseg.evaluation.loading import Batches, load
from dgseg.evaluation.protocols import PROTOCOLS
from tests.data.samplers_support import Squares, noisy

B = 4


def sources(**options):
    return [Squares(40, "first", **options), Squares(25, "second", **options)]


def mixture(batch_size=B):
    first, second = sources()
    return Mixture(
        [
            Uniform(len(first), batch_size=batch_size, seed=0),
            RareClass(second.class_pixels(), batch_size=batch_size, seed=0, source=1, min_pixels=1),
        ],
        [0.6, 0.4],
        batch_size=batch_size,
        seed=0,
    )


def target():
    return Target(Squares(30, "target"), Uniform(30, batch_size=B, seed=9), noisy)


def loader(sampler=None, data=None, pipeline=noisy, **options):
    return Loader(data or sources(), sampler or mixture(), pipeline, **{"batch_size": B, "seed": 5} | options)


def batches(steps, **options):
    return list(islice(loader(**options), steps))


def assert_same(one, other):
    assert (one.ids, list(one.domain)) == (other.ids, list(other.domain))
    for name in ("images", "labels", "draws", "indices", "sources"):
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None)
        assert first is None or torch.equal(first, second), name
    assert one.views.keys() == other.views.keys()
    for name in one.views:
        assert_same(one.views[name], other.views[name])
    assert (one.target is None) == (other.target is None)
    if one.target:
        assert_same(one.target, other.target)


def joined(parts, name):
    return torch.cat([getattr(part, name) for part in parts])


def test_a_batch_is_what_its_draws_say():
    sampler = mixture()
    for step, batch in enumerate(batches(5, target=target())):
        draws = sampler.draws(step)
        assert batch.draws.tolist() == [draw.number for draw in draws]
        assert batch.sources.tolist() == [draw.source for draw in draws]
        assert batch.indices.tolist() == [40 * draw.source + draw.index for draw in draws]
        assert batch.ids == [f"{('first', 'second')[draw.source]}/{draw.index}" for draw in draws]
        assert list(batch.domain) == [("first", "second")[draw.source] for draw in draws]
        assert batch.labels[:, 0, 0].tolist() == [draw.index % 5 for draw in draws]
        assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (B, 3, 8, 8))
        assert batch.views.keys() == {"augmented"}
        assert not torch.equal(batch.views["augmented"].images, batch.images)
        assert batch.target.labels is None
        assert batch.target.ids == [f"target/{draw.index}" for draw in Uniform(30, batch_size=B, seed=9).draws(step)]


def test_no_two_samples_share_their_randomness():
    first, *_ = batches(1, target=target())
    plain = [torch.full((3, 8, 8), int(i), dtype=torch.uint8) for i in first.indices]
    noise = [image ^ flat for image, flat in zip(first.images, plain, strict=True)]
    assert len({bytes(each.numpy()) for each in noise}) == B


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    for one, other in zip(batches(9, target=target()), batches(9, target=target(), workers=workers), strict=True):
        assert_same(one, other)


def test_threads_change_nothing_and_leave_torchs_number_alone():
    """Without workers, images are loaded in as many threads as torch has."""
    before, loaded = torch.get_num_threads(), {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            loaded[threads] = batches(5, target=target())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for one, other in zip(loaded[1], loaded[3], strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_alone_sees(world_size):
    ranks = [batches(4, rank=rank, world_size=world_size, target=target()) for rank in range(world_size)]
    for step, whole in enumerate(batches(4, target=target())):
        parts = [rank[step] for rank in ranks]
        for name in ("images", "labels", "draws", "indices", "sources"):
            assert torch.equal(joined(parts, name), getattr(whole, name))
        assert [name for part in parts for name in part.ids] == whole.ids
        views = [part.views["augmented"] for part in parts]
        assert torch.equal(joined(views, "images"), whole.views["augmented"].images)
        assert torch.equal(joined([part.target for part in parts], "images"), whole.target.images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_goes_on_where_it_stopped(workers):
    whole = batches(12)
    for one, other in zip(whole[5:], batches(7, start_step=5, workers=workers), strict=True):
        assert_same(one, other)
    stopped = loader(workers=workers)
    for _ in islice(stopped, 5):
        pass
    state = stopped.state_dict()
    assert state["step"] == 5
    assert sum(state["draws"].values()) == 5 * B
    resumed = loader()
    resumed.load_state_dict(state)
    for one, other in zip(whole[5:], islice(resumed, 7), strict=True):
        assert_same(one, other)
    assert resumed.draw_counts.total == 12 * B
    assert_same(next(iter(stopped)), whole[5])  # the same loader, iterated anew


def test_the_loader_leaves_the_models_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(2)
    assert torch.equal(torch.rand(3), expected)


def hardness(window=5):
    return Hardness(
        mixture(), max_steps=100, seed=0, config=HardnessConfig(window=window, decay="none", temperature=0.1)
    )


def train(steps, **options):
    sampler = hardness()
    ids = []
    loading = loader(sampler, **options)
    for step, batch in enumerate(islice(loading, steps)):
        ids.append(batch.ids)
        sampler.observe(step, batch.indices, torch.tensor([i % 7 / 2 for i in batch.indices.tolist()]))
    return ids


def test_hardness_draws_are_the_same_however_far_workers_run_ahead():
    expected = train(32)
    assert train(32, workers=1, prefetch=5) == expected
    assert train(32, workers=2, prefetch=9) == expected  # cut down to the window
    assert len({name for ids in expected[25:] for name in ids}) < 40  # by loss, not all alike


def test_ranks_share_one_hardness():
    """Every rank has its own sampler and sees all ranks' losses."""
    ranks = [hardness() for _ in range(2)]
    loading = [iter(loader(sampler, rank=r, world_size=2)) for r, sampler in enumerate(ranks)]
    ids = []
    for step in range(32):
        parts = [next(each) for each in loading]
        ids.append([name for part in parts for name in part.ids])
        indices = joined(parts, "indices")
        for sampler in ranks:
            sampler.observe(step, indices, torch.tensor([i % 7 / 2 for i in indices.tolist()]))
    assert ids == train(32)


def test_hardness_resumes_with_its_loader(tmp_path):
    def run(loading, steps):
        for step, batch in enumerate(islice(loading, steps), start=loading.step):
            losses = torch.tensor([i % 7 / 2 for i in batch.indices.tolist()])
            yield batch.ids
            loading.sampler.observe(step, batch.indices, losses)

    expected = list(run(loader(hardness()), 32))
    stopped = loader(hardness(), workers=1)
    assert list(run(stopped, 13)) == expected[:13]
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed = loader(hardness())
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(run(resumed, 19)) == expected[13:]


@pytest.mark.parametrize("workers", [0, 2])
def test_losses_that_nobody_reports_are_missed(workers):
    with pytest.raises(ValueError, match="Call observe"):
        batches(20, sampler=hardness(), workers=workers)


def test_losses_may_be_reported_after_the_next_batch_is_fetched():
    sampler = hardness()
    loading = iter(loader(sampler, workers=2, prefetch=9))
    following, ids = next(loading), []
    for step in range(32):
        batch, following = following, next(loading)
        ids.append(batch.ids)
        sampler.observe(step, batch.indices, torch.tensor([i % 7 / 2 for i in batch.indices.tolist()]))
    assert ids == train(32)


def test_a_state_that_would_lose_a_batch_is_refused():
    loading = loader(hardness())
    batch = next(iter(loading))
    with pytest.raises(ValueError, match=r"1 batches were fetched, the sampler has observed the losses of 0"):
        loading.state_dict()
    loading.sampler.observe(0, batch.indices, torch.ones(B))
    assert loading.state_dict()["step"] == loading.state_dict()["sampler"]["step"] == 1


def test_workers_that_would_outrun_the_window_are_refused():
    with pytest.raises(ValueError, match="take at most 5 workers"):
        loader(hardness(), workers=6)


@dataclass(frozen=True)
class Crash:
    """Kills its own process at one sample."""

    id: str

    def __call__(self, sample, rng, draw):
        if sample.id == self.id:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"original": sample}


def test_a_dead_worker_is_an_error_that_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"a worker died \(SIGKILL\) before step \d+ was there"):
        batches(20, pipeline=Crash("first/7"), workers=2)


def test_a_death_does_not_interrupt_the_step_that_is_trained_meanwhile():
    loading = iter(loader(workers=2))
    next(loading)
    for child in multiprocessing.active_children():
        child.kill()
    time.sleep(0.3)
    with pytest.raises(RuntimeError, match=r"a worker died \(SIGKILL\)"):
        list(islice(loading, 20))


def unreadable(sample, rng, draw):
    raise FileNotFoundError(f"{sample.id}: no such file")


@pytest.mark.parametrize("workers", [0, 2])
def test_other_errors_pass_through(workers):
    with pytest.raises(FileNotFoundError, match="no such file"):
        batches(1, pipeline=unreadable, workers=workers)


CORRUPT = (3, 4, 17)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_files_are_named_counted_and_replaced_alike_everywhere(workers, caplog):
    data = sources(corrupt=CORRUPT)
    with caplog.at_level(logging.WARNING):
        loading = loader(data=data, corrupt_share=1.0, workers=workers)
        found = list(islice(loading, 80))
    bad = {f"{name}/{i}.png" for name in ("first", "second") for i in CORRUPT}
    assert loading.corrupt.keys() == bad
    assert all("is cut off" in reason for reason in loading.corrupt.values())
    assert caplog.text.count("corrupt file, replaced") == len(bad)
    for one, other, clean in zip(found, batches(80, data=data, corrupt_share=1.0), batches(80), strict=True):
        assert_same(one, other)
        kept = [i for i, name in enumerate(clean.ids) if int(name.split("/")[1]) not in CORRUPT]
        assert torch.equal(one.images[kept], clean.images[kept])
        for i, name in enumerate(one.ids):
            assert int(name.split("/")[1]) not in CORRUPT
            assert name.split("/")[0] == clean.ids[i].split("/")[0]  # from the same source
            assert one.indices[i] == 40 * one.sources[i] + int(name.split("/")[1])
    assert loading.draw_counts.total == 80 * B


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_corrupt_files_stop_the_run(workers):
    loading = loader(data=sources(corrupt=CORRUPT), corrupt_share=4 / 65, workers=workers)
    with pytest.raises(DataError, match=r"5 corrupt files after \d+ draws from 65 samples .*quarantine"):
        list(islice(loading, 100))
    clean = loader(data=sources(corrupt=CORRUPT), corrupt_share=6 / 65, workers=workers)
    assert len(list(islice(clean, 100))) == 100
    with pytest.raises(DataError, match="1 corrupt files"):  # .1 % of 65 files is none
        list(islice(loader(data=sources(corrupt=CORRUPT)), 100))


def test_all_ranks_corrupt_files_count_against_all_ranks_draws(monkeypatch):
    """What the ranks found together is in the state that each of them goes on from."""
    monkeypatch.setattr("dgseg.data.loader.FEW_DRAWS", 1)
    options = {"data": sources(corrupt=CORRUPT), "corrupt_share": 0.15, "world_size": 4}
    state = loader(**options).state_dict() | {"step": 10, "corrupt": {f"{i}.png": "is cut off" for i in range(4)}}
    again = loader(**options)
    again.load_state_dict(state)
    assert len(list(islice(again, 3))) == 3  # 4 of 40, and not of the 10 that this rank has drawn


class Void(Squares):
    """Void labels, but for those of the first images."""

    def __init__(self, size, labelled=0):
        super().__init__(size, "void")
        self.labelled = labelled

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample if index < self.labelled else replace(sample, label=torch.full_like(sample.label, 255))


def test_labels_that_are_all_void_are_refused():
    alone = Uniform(40, batch_size=B, seed=0)
    with pytest.raises(DataError, match=r"the labels of all 16 images drawn so far .* are void"):
        batches(8, sampler=alone, data=[Void(40)])
    assert len(batches(8, sampler=alone, data=[Void(40, labelled=20)])) == 8


def test_a_dead_disk_is_not_mended_by_substitutes():
    with pytest.raises(DataError, match="8 files in a row"):
        batches(1, data=sources(corrupt=range(40)), corrupt_share=1.0)


def uneven(sample, rng, draw):
    side = 4 + draw.number % 2
    return {"original": Sample(sample.image[:, :side, :side], sample.label[:side, :side], sample.id)}


def nameless(sample, rng, draw):
    return {"view": sample}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pipeline": uneven}, "End the pipeline with a crop"),
        ({"pipeline": nameless}, '"original" among them'),
        ({"world_size": 3}, "multiple of 3"),
        ({"batch_size": 8}, "the sampler makes batches of 4"),
        ({"data": [*sources(), Squares(3, "third")]}, "nothing draws from"),
        ({"data": [sources()[0], Squares(0, "second")]}, "second has no samples"),
        ({"workers": -1}, "workers -1"),
        ({"seed": -1}, "seed is -1"),
        ({"corrupt_share": 2.0}, "corrupt_share 2"),
    ],
)
def test_wrong_settings_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        batches(1, **options)


def test_sources_of_one_name_are_counted_apart():
    game, fog = Squares(40, "streets"), Squares(25, "streets")
    game.domain, fog.domain = "game", "fog"
    loading = loader(data=[game, fog])
    for _ in islice(loading, 10):
        pass
    assert loading.metrics() == {"data/draws/streets/game": 24, "data/draws/streets/fog": 16, "data/corrupt": 0}
    resumed = loader(data=[game, fog])
    resumed.load_state_dict(loading.state_dict())
    assert resumed.metrics() == loading.metrics()
    game.domain = "fog"
    assert loader(data=[game, fog]).draw_counts.names == ("streets/fog 0", "streets/fog 1")
    with pytest.raises(ValueError, match="the state is of sources streets/game, streets/fog"):
        loader().load_state_dict(loading.state_dict())


def test_a_loader_stops_where_it_is_told_and_says_what_it_drew(caplog):
    with caplog.at_level(logging.INFO):
        assert len(list(loader(start_step=3, stop_step=7))) == 4
    assert "draws per source: first 10, second 6" in caplog.text
    samplers = [Uniform(size, batch_size=1, seed=0, source=s) for s, size in enumerate((40, 25))]
    with caplog.at_level(logging.WARNING):
        list(loader(Mixture(samplers, [99, 1], batch_size=1, seed=0), batch_size=1, stop_step=3))
    assert "second is configured, but the run ended without a draw from it" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this torch has a GPU to pin memory for")
def test_pinning_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="pin_memory"):
        loader(pin_memory=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_pinned_batches_hold_the_same_pixels(workers):
    found = batches(3, pin_memory=True, workers=workers, target=target())
    for one, other in zip(found, batches(3, target=target()), strict=True):
        assert one.images.is_pinned()
        assert one.labels.is_pinned()
        assert one.views["augmented"].images.is_pinned()
        assert one.target.images.is_pinned()
        assert_same(one.to("cuda").to("cpu"), other)


def test_a_spawned_process_starts_its_workers_as_the_first_one_does():
    """Python's default there is to spawn them: seconds, at every evaluation."""
    context = multiprocessing.get_context("spawn")
    answer, other = context.Pipe(duplex=False)
    spawned = context.Process(target=_tell_workers, args=(other,))
    spawned.start()
    other.close()
    assert answer.recv() == [[multiprocessing.get_context(START_METHOD).Process.__name__]] * 2
    spawned.join()


def _tell_workers(answer):
    found = []
    evaluated = load(
        Batches([Squares(4, "one")], PROTOCOLS["native"], 2, outside=False), range(2), workers=1, pin=False
    )
    for batches in (loader(workers=1), evaluated):
        iterating = iter(batches)
        next(iterating)
        found.append([type(worker).__name__ for worker in multiprocessing.active_children()])
        iterating.close()
    answer.send(found)


def test_workers_started_afresh_see_the_same():
    for one, other in zip(batches(3), batches(3, workers=1, start_method="spawn"), strict=True):
        assert_same(one, other)


def owned():
    """Bytes that this process and its workers hold together, and their open files."""
    processes = [Path("/proc/self"), *(Path(f"/proc/{child.pid}") for child in multiprocessing.active_children())]
    lines = [line.split() for process in processes for line in (process / "smaps_rollup").read_text().splitlines()]
    memory = sum(int(line[1]) << 10 for line in lines if line[0] == "Pss:")
    return memory, sum(len(list((process / "fd").iterdir())) for process in processes)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_memory_and_descriptors_do_not_grow_over_an_epoch():
    data = [Squares(4000, side=64)]
    measured = {}
    loading = loader(Uniform(4000, batch_size=8, seed=0), data, batch_size=8, workers=2)
    for step, batch in enumerate(islice(loading, 401)):
        if step in (100, 400):
            measured[step] = owned()
        del batch
    (memory, files), (memory_later, files_later) = measured.values()
    assert memory_later - memory < 8 * 2**20
    assert files_later - files < 40

"""The worker: what waits is put together by its settings, in order, each request gets its own images back."""

import base64
import io
import threading
from types import SimpleNamespace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffsweep.analysis import batching as analysis
from diffsweep.measure.records import CapacityRecord
from diffsweep.serving.parsing import Wanted
from diffsweep.serving.worker import Batching, QueueFull, Worker
from test_server import fake_app, in_background, pixels

FOREVER_S = 3600


class Pipeline:
    """Stands for `generate`: images uniform in the seed; keeps the seeds of every batch. Fails on a prompt "fail"."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append([seed for wanted in batch for seed in wanted.seeds])
        assert len({wanted.settings for wanted in batch}) == 1
        if any(wanted.prompt == "fail" for wanted in batch):
            raise RuntimeError("on purpose")
        images = [numpy.full((2, 2, 3), seed, numpy.uint8) for seed in self.batches[-1]]
        return numpy.stack(images), SimpleNamespace(prompt_encode_s=0.1, setup_s=0.0, step_s=[0.2], decode_s=0.3)


def wanted(*seeds, steps=25, prompt="x"):
    return Wanted(prompt, "", seeds, "ddim", steps, 3.0, 2, 2)


def seeds_of(future):
    images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in future.result(timeout=60).images]
    return tuple(image.getpixel((0, 0))[0] for image in images)


def batches_of(requests, most, run=None):
    """The batches that are made of requests that all wait already, and the futures."""
    worker, pipeline = Worker(len(requests), Batching(most)), Pipeline()
    futures = [worker.submit(request) for request in requests]
    worker.stop()
    worker.run(pipeline)
    return pipeline.batches, futures


def test_requests_of_equal_settings_run_together_in_the_order_they_came():
    requests = [wanted(1), wanted(2, steps=10), wanted(3), wanted(4), wanted(5, steps=10), wanted(6)]
    batches, futures = batches_of(requests, 3)
    assert batches == [[1, 3, 4], [2, 5], [6]]
    assert [future.result().batch_size for future in futures] == [3, 2, 3, 3, 2, 1]
    assert [seeds_of(future) for future in futures] == [(1,), (2,), (3,), (4,), (5,), (6,)]


def test_images_are_what_is_counted_and_a_request_is_not_split():
    batches, futures = batches_of([wanted(1, 2, 3), wanted(4, 5), wanted(6), wanted(*range(10, 16)), wanted(7)], 4)
    assert batches == [[1, 2, 3], [4, 5, 6], [10, 11, 12, 13, 14, 15], [7]]
    assert seeds_of(futures[3]) == tuple(range(10, 16))


def test_without_batching_every_request_runs_alone():
    assert batches_of([wanted(1), wanted(2), wanted(3)], 1)[0] == [[1], [2], [3]]


sizes_and_steps = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([10, 25])), min_size=1, max_size=20)


@settings(deadline=None)
@given(sizes_and_steps, st.integers(1, 5))
def test_every_batch_serves_the_request_that_waited_longest(requests, most):
    seeds = iter(range(250))
    asked = [wanted(*[next(seeds) for _ in range(size)], steps=steps) for size, steps in requests]
    batches, futures = batches_of(asked, most)
    assert [seeds_of(future) for future in futures] == [request.seeds for request in asked]
    waiting = [request.seeds for request in asked]
    for batch in batches:
        assert batch[: len(waiting[0])] == list(waiting[0])
        assert len(batch) <= most or len(batch) == len(waiting[0])
        waiting = [seeds for seeds in waiting if seeds[0] not in batch]
    for steps in (10, 25):  # among equals nobody is overtaken
        order = [seed for batch in batches for seed in batch if any(seed in a.seeds for a in asked if a.steps == steps)]
        assert order == sorted(order)


def test_a_batch_that_is_full_does_not_wait():
    worker, pipeline = Worker(8, Batching(2, FOREVER_S)), Pipeline()
    thread = in_background(lambda: worker.run(pipeline))
    first = worker.submit(wanted(1))
    other = worker.submit(wanted(2, steps=10))  # fits no batch of the first
    second = worker.submit(wanted(3))
    assert (seeds_of(first), seeds_of(second)) == ((1,), (3,))
    assert not other.done()
    worker.stop()  # what waits is done, without the wait
    assert seeds_of(other) == (2,)
    thread.join(timeout=60)
    assert pipeline.batches == [[1, 3], [2]]


def test_a_request_that_nobody_joins_runs_alone_after_the_wait():
    worker, pipeline = Worker(8, Batching(4, 0.05)), Pipeline()
    in_background(lambda: worker.run(pipeline))
    done = worker.submit(wanted(1)).result(timeout=60)
    assert done.batch_size == 1
    worker.stop()


def test_a_cancelled_request_leaves_the_queue_and_its_place():
    worker, pipeline = Worker(2, Batching(4)), Pipeline()
    first, second = worker.submit(wanted(1)), worker.submit(wanted(2))
    with pytest.raises(QueueFull):
        worker.submit(wanted(3))
    assert first.cancel() and worker.waiting == 1
    third = worker.submit(wanted(3))
    worker.stop()
    worker.run(pipeline)
    assert pipeline.batches == [[2, 3]]
    assert seeds_of(second) == (2,) and seeds_of(third) == (3,)
    assert not third.cancel()


def test_a_worker_that_waits_for_others_notices_that_the_first_has_left():
    worker, pipeline = Worker(8, Batching(2, FOREVER_S)), Pipeline()
    thread = in_background(lambda: worker.run(pipeline))
    assert worker.submit(wanted(1)).cancel()
    pair = [worker.submit(wanted(2)), worker.submit(wanted(3))]
    assert [seeds_of(future) for future in pair] == [(2,), (3,)]
    worker.stop()
    thread.join(timeout=60)
    assert pipeline.batches == [[2, 3]]


def test_a_request_that_fails_fails_its_batch_only():
    requests = [wanted(1), wanted(2, prompt="fail"), wanted(3, steps=10), wanted(4)]
    batches, futures = batches_of(requests, 2)
    assert batches == [[1, 2], [3], [4]]
    for future in futures[:2]:
        assert str(future.exception(timeout=60)) == "on purpose"
    assert [seeds_of(future) for future in futures[2:]] == [(3,), (4,)]


def test_the_clocks_of_a_batch_are_those_of_every_request_in_it():
    _, futures = batches_of([wanted(1), wanted(2, 3)], 3)
    first, second = (future.result() for future in futures)
    assert first.step_s == second.step_s == (0.2,) and first.decode_s == second.decode_s == 0.3
    assert first.started_s == second.started_s
    assert 0 < first.image_encode_s < second.image_encode_s  # it waited for the first one's


# --- over HTTP ---


def test_a_batching_server_answers_each_client_with_its_own_image(tmp_path):
    with fake_app(tmp_path, "--max-batch", "4", "--max-wait-s", "0.2") as server:
        status, alone = server.generate(prompt="x", seed=9)
        assert status == 200 and alone["metrics"]["batch_size"] == 1 and alone["metrics"]["queue_s"] >= 0.2
        replies, together = {}, threading.Barrier(6)

        def ask(seed, **fields):
            together.wait()
            replies[seed] = server.generate(prompt="x", seed=seed, **fields)

        clients = [in_background(lambda seed=seed: ask(seed)) for seed in range(4)]
        clients += [in_background(lambda seed=seed: ask(seed, n=8, num_inference_steps=9)) for seed in (50, 60)]
        for client in clients:
            client.join()
        for seed, (status, reply) in replies.items():
            assert status == 200
            assert [pixels(image["b64_json"])[0, 0, 0] for image in reply["data"]] == list(
                range(seed, seed + len(reply["data"]))
            )
        assert all(replies[seed][1]["metrics"]["batch_size"] == 8 for seed in (50, 60))
        assert server.generate(prompt="fail: on purpose")[0] == 500
        assert server.generate(prompt="x")[0] == 200


# --- in the records ---


def cell(batching, *batch_sizes):
    """A cell whose requests under a load of 4 clients ran in batches of these sizes."""
    base = dict(schema=1, run="r", model="m", target="t", variant="v", scenario="steps", level=4.0, scheduled_s=None)
    base |= dict(sent_s=0.0, done_s=1.0, status="ok", error=None, images=1, replicate=1, client=0)
    records = [CapacityRecord(**base, steady=True, batch_size=size) for size in batch_sizes]
    records.append(CapacityRecord(**base, steady=False, batch_size=9))  # while the level began
    replicate = SimpleNamespace(capacity=records)
    return SimpleNamespace(variant={"batching": batching}, replicates=[replicate])


def test_the_mean_batch_is_told_and_batching_that_never_happened_is_a_warning():
    on = {"max_batch": 4, "max_wait_ms": 10}
    assert analysis.mean_size(cell(on, 4, 4, 1), 4.0) == 3 and analysis.mean_size(cell(on, 4), 2.0) is None
    assert analysis.warnings(cell(on, 1, 1)) == [
        "the server batches, and no two requests ran in one batch at any load level"
    ]
    for quiet in (cell(on, 1, 2), cell(None, 1, 1), cell(on, None), cell(on)):  # None: measured before it was noted
        assert analysis.warnings(quiet) == []

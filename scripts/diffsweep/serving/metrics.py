"""What `GET /metrics` tells Prometheus: base units, counters that end in _total, warm-up apart, no prompt and no seed.

A request is counted once its reply has been sent, so that being watched costs no request anything. Durations are sums
and counts, and buckets for a heat map; percentiles come from the raw records, never from buckets (METHOD.md).
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector

from diffsweep.serving.parsing import Service

# From a small model's request to a video's; a heat map needs no finer ones.
BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300)
# In the words of the reply's clocks; "other" is what they leave of the server's time, so that the stages add up.
STAGES = ("queue", "prompt_encode", "setup", "sampling", "decode", "image_encode", "other")
# These series are there from the beginning: a rate does not see a series begin at 1.
CODES = ("200", "400", "429", "500")
WORDS = {True: "true", False: "false"}


class Meter:
    """The metrics of one server. Only the event loop's thread calls it."""

    def __init__(self, service: Service):
        disable_created_metrics()  # else each counter has a twin that says when it began
        self.in_progress = 0
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # reads /proc when it is asked, not before
        _describe(service, registry)
        progress = Gauge("diffsweep_requests_in_progress", "Requests received and not answered.", registry=registry)
        progress.set_function(lambda: self.in_progress)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"diffsweep_{name}", text, (*labels, "is_warmup"), registry=registry)

        self._requests = counter("requests_total", "Requests for images that were answered, by HTTP status.", "code")
        self._images = counter("images_total", "Images made.")
        self._steps = counter("steps_total", "Denoiser steps, once for each request that waited for them.")
        self._stages = counter("stage_seconds_total", "Time of successful requests in each stage.", "stage")
        self._duration = Histogram(
            "diffsweep_request_duration_seconds",
            "Time from a request's arrival until its reply is built; successful requests only.",
            ("is_warmup",),
            buckets=BUCKETS_S,
            registry=registry,
        )
        for word in WORDS.values():
            self._images.labels(word), self._steps.labels(word), self._duration.labels(word)
            for code in CODES:
                self._requests.labels(code, word)
            for stage in STAGES:
                self._stages.labels(stage, word)

    async def answered(self, clocks: Mapping, images: int, warmup: bool) -> None:
        """Count a request that got its images. `clocks`: the reply's metrics, in seconds.

        A coroutine only because Starlette would hand a plain function to another thread.
        """
        word = WORDS[warmup]
        self._requests.labels("200", word).inc()
        self._images.labels(word).inc(images)
        self._steps.labels(word).inc(len(clocks["step_s"]))
        self._duration.labels(word).observe(clocks["total_s"])
        for stage, seconds in stages_of(clocks).items():
            self._stages.labels(stage, word).inc(seconds)

    def refused(self, code: int, warmup: bool) -> None:
        """Count a request that got an error."""
        self._requests.labels(str(code), WORDS[warmup]).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(document, content type) for a scraper that accepts `accept`: OpenMetrics or Prometheus' own text."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _describe(service: Service, registry: CollectorRegistry) -> None:
    """What does not change while a server runs."""
    names = {"model": service.model, "variant": service.variant, "artifact": service.artifact}
    Info("diffsweep_server", "What this server runs.", registry=registry).info({**names, "size": service.size})
    text = "Waiting requests beyond which the answer is 429."
    Gauge("diffsweep_queue_limit_requests", text, registry=registry).set(service.limits.queue)


def stages_of(clocks: Mapping) -> dict[str, float]:
    """Seconds per stage of one reply; together its total_s."""
    known = {stage: clocks[f"{stage}_s"] for stage in STAGES if f"{stage}_s" in clocks}
    known["sampling"] = sum(clocks["step_s"])
    known["other"] = clocks["total_s"] - sum(known.values())
    return {stage: max(0.0, seconds) for stage, seconds in known.items()}  # rounding must not break a counter

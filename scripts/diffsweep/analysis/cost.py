"""What images cost: a target's hourly price over the images it makes in that hour. Pure.

Always from the sustained throughput, never from 1 / latency: a server that is idle between requests is paid for too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from diffsweep.analysis.stats import Estimate

SECONDS_PER_HOUR = 3600.0
IMAGES = 1000  # costs are told per this many images, so that they are numbers of a readable size


class PriceRefused(Exception):
    """A price that cannot be defended: without currency, date or source, or not positive. The message says which."""


@dataclass(frozen=True)
class Price:
    """A target's price in US dollars per hour; None where the market (on-demand, spot) does not exist."""

    instance: str
    on_demand_per_hour: float | None
    spot_per_hour: float | None
    date: str
    source: str


def parse_price(price: Mapping | None) -> Price | None:
    """The price of a target's config entry; None when it has none. Raises PriceRefused."""
    if price is None:
        return None
    for key in ("date", "source", "currency"):
        if not price.get(key):
            raise PriceRefused(f"the price has no {key}")
    if price["currency"] != "USD":
        raise PriceRefused(f"the price is in {price['currency']}; give it in USD")
    rates = {key: price.get(key) for key in ("on_demand_per_hour", "spot_per_hour")}
    for key, rate in rates.items():
        if rate is not None and not rate > 0:
            raise PriceRefused(f"{key} is {rate}; a price is greater than 0")
    return Price(instance=price.get("instance") or "", date=str(price["date"]), source=str(price["source"]), **rates)


def usd_per_1000_images(
    usd_per_hour: float | None, images_per_s: Estimate | None, utilisation: float = 1.0
) -> Estimate | None:
    """US dollars per 1,000 images, its interval from the throughput's. None when either is unknown.

    `images_per_s` is the sustained throughput of successful images; `utilisation` the share of paid time in use. Where
    the throughput's interval reaches 0 the cost has no upper end, and no interval is given.
    """
    if usd_per_hour is None or images_per_s is None or images_per_s.value <= 0:
        return None
    if not 0 < utilisation <= 1:
        raise ValueError(f"a utilisation lies in (0, 1], got {utilisation}")

    def cost(rate: float) -> float:
        return usd_per_hour / SECONDS_PER_HOUR / (rate * utilisation) * IMAGES

    low, high = images_per_s.low, images_per_s.high
    if low is None or high is None or low <= 0:
        return Estimate(cost(images_per_s.value))
    return Estimate(cost(images_per_s.value), cost(high), cost(low))

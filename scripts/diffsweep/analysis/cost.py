"""What images cost: a target's hourly price over the images it makes in that hour. Pure.

Always from the sustained throughput, never from 1 / latency: a server that is idle between requests is paid for too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from diffsweep.analysis.stats import Estimate

SECONDS_PER_HOUR = 3600.0
IMAGES = 1000  # costs are told per this many images, so that they are numbers of a readable size
UTILISATIONS = (1.0, 0.75, 0.5, 0.25)
MARKETS = ("on_demand", "spot")
OLD_DAYS = 365

# Whether what a variant costs once is earned back by what each of its images costs less than the baseline's.
AT_ONCE, AFTER, NEVER, CANNOT_TELL = "at once", "after", "never", "cannot tell"


class PriceRefused(Exception):
    """A price that cannot be defended: without currency, date or source, or not positive. The message says which."""


@dataclass(frozen=True)
class Price:
    """A target's price in US dollars per hour; None where the market (on-demand, spot) does not exist.

    Of an instance with several GPUs it is the share of one, which is what one server uses.
    """

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
    gpus = price.get("gpus") or 1
    shares = {key: None if rate is None else rate / gpus for key, rate in rates.items()}
    return Price(instance=price.get("instance") or "", date=str(price["date"]), source=str(price["source"]), **shares)


def is_old(price_date: str, today: date) -> bool:
    """Was a price read more than a year ago?"""
    return (today - date.fromisoformat(price_date)).days > OLD_DAYS


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


def usd_of_time(usd_per_hour: float | None, seconds: float | None) -> float | None:
    """What the machine costs for so long."""
    return None if usd_per_hour is None or seconds is None else usd_per_hour * seconds / SECONDS_PER_HOUR


def payback(extra_s: float | None, saved_s: Estimate | None) -> tuple[str | None, Estimate | None]:
    """After how many images a variant has earned back what it takes once: the answer in a word, and the number.

    extra_s: machine time that it takes once (build, first start), more than the baseline does. saved_s: machine time
    per image that it takes less. On one machine the price per hour cancels. Without a proof that an image costs less,
    or that it costs more, the answer is "cannot tell", and the number, where there is one, has no interval.
    """
    if extra_s is None or saved_s is None:
        return None, None
    if saved_s.low is None or saved_s.high is None or saved_s.low <= 0 <= saved_s.high:
        images = extra_s / saved_s.value if extra_s > 0 and saved_s.value > 0 else None
        return CANNOT_TELL, None if images is None else Estimate(images)
    if saved_s.high < 0:
        return NEVER, None
    if extra_s <= 0:
        return AT_ONCE, Estimate(0.0, 0.0, 0.0)
    return AFTER, Estimate(extra_s / saved_s.value, extra_s / saved_s.high, extra_s / saved_s.low)

"""The functions of the example pipeline: find the best forecasting method for the sales of each shop."""

import csv
import json
import random
from pathlib import Path
from typing import Callable, Dict, List

from magnus import get_from_catalog, put_in_catalog, track_this
from pydantic import BaseModel

DATA = Path("data")

METHODS: Dict[str, Callable[[List[float], int], float]] = {
    "yesterday": lambda sales, day: sales[day - 1],
    "same weekday": lambda sales, day: sales[day - 7],
    "weekly mean": lambda sales, day: sum(sales[day - 7 : day]) / 7,
}


class Shops(BaseModel):
    """The parameter that `collect` returns and that the map node iterates over."""

    shops: List[str]


def collect(days: int) -> Shops:
    """Write the daily sales of each shop to a CSV file."""
    DATA.mkdir(exist_ok=True)
    generator = random.Random(2024)
    profiles = {"market-square": (120, 60, 8), "station": (300, 5, 20), "airport": (80, 0, 40)}
    for shop, (level, weekend, noise) in profiles.items():
        with (DATA / f"{shop}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for day in range(days):
                rows.writerow([day, round(level + weekend * (day % 7 >= 5) + generator.gauss(0, noise), 1)])
    return Shops(shops=[f"{shop}.csv" for shop in profiles])


def evaluate(shop: str) -> None:
    """Forecast each day of a shop's sales with every method, and save the mean error of each method."""
    source = DATA / shop
    get_from_catalog(str(source))
    with source.open(newline="") as file:
        sales = [float(sold) for _, sold in csv.reader(file)]
    days = range(7, len(sales))
    errors = {
        name: round(sum(abs(method(sales, day) - sales[day]) for day in days) / len(days), 2)
        for name, method in METHODS.items()
    }
    best = min(errors, key=lambda name: errors[name])
    track_this(days=len(days), best=best, error=errors)
    result = {"shop": Path(shop).stem, "best": best, **errors}
    target = source.with_suffix(".json")
    target.write_text(json.dumps(result))
    put_in_catalog(str(target))
    print(f"{shop}: {best}, off by {errors[best]} a day")


def report() -> None:
    """Print a table of all shops and methods."""
    results = [json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))]
    print(f"\n{'Mean error a day':<18}" + "".join(f"{name:>16}" for name in METHODS))
    for result in results:
        cells = (f"{result[name]}{' *' if name == result['best'] else '  '}" for name in METHODS)
        print(f"{result['shop']:<18}" + "".join(f"{cell:>16}" for cell in cells))
    print("* the best for the shop\n")

"""Which way of forecasting suits each shop's sales best? The functions of the pipeline beside this file."""

import csv
import json
import random
from pathlib import Path
from typing import Callable, Dict, List

from magnus import track_this
from pydantic import BaseModel

DATA = Path("data")

METHODS: Dict[str, Callable[[List[float], int], float]] = {
    "yesterday": lambda sales, day: sales[day - 1],
    "same weekday": lambda sales, day: sales[day - 7],
    "weekly mean": lambda sales, day: sum(sales[day - 7 : day]) / 7,
}


class Shops(BaseModel):
    """What `collect` hands on: the parameter that the map goes over."""

    shops: List[str]


def collect(days: int) -> Shops:
    """Write each shop's daily sales to a file of its own."""
    DATA.mkdir(exist_ok=True)
    chance = random.Random(2024)
    profiles = {"market-square": (120, 60, 8), "station": (300, 5, 20), "airport": (80, 0, 40)}
    for shop, (level, weekend, noise) in profiles.items():
        with (DATA / f"{shop}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for day in range(days):
                rows.writerow([day, round(level + weekend * (day % 7 >= 5) + chance.gauss(0, noise), 1)])
    return Shops(shops=[f"{shop}.csv" for shop in profiles])


def evaluate(shop: str) -> None:
    """Forecast each day of one shop's sales from the days before it, by every method, and keep the best."""
    with (DATA / shop).open(newline="") as file:
        sales = [float(sold) for _, sold in csv.reader(file)]
    days = range(7, len(sales))
    errors = {
        name: round(sum(abs(method(sales, day) - sales[day]) for day in days) / len(days), 2)
        for name, method in METHODS.items()
    }
    best = min(errors, key=lambda name: errors[name])
    track_this(days=len(days), best=best, error=errors)
    result = {"shop": Path(shop).stem, "best": best, **errors}
    (DATA / shop).with_suffix(".json").write_text(json.dumps(result))
    print(f"{shop}: {best}, off by {errors[best]} a day")


def report() -> None:
    """Lay the shops side by side."""
    results = [json.loads(path.read_text()) for path in sorted(DATA.glob("*.json"))]
    print(f"\n{'Mean error a day':<18}" + "".join(f"{name:>16}" for name in METHODS))
    for result in results:
        cells = (f"{result[name]}{' *' if name == result['best'] else '  '}" for name in METHODS)
        print(f"{result['shop']:<18}" + "".join(f"{cell:>16}" for cell in cells))
    print("* the best for the shop\n")

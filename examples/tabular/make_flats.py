"""Write src/tabular_gan/data/flats.csv: 1,000 invented offers of flats, whose columns depend on each other as listed here.

python make_flats.py

    district      Centre 30 %, Harbour 20 %, Hills 15 %, Station 35 %
    area_m2       about 65, log-normal; Hills a third larger
    rooms         one for each 25 m2, with noise of 0.4 rooms before rounding; 1 to 6
    balcony       yes for 80 % of Hills, 50 % of Harbour, 25 % of the others
    distance_km   to the middle of the town: about 1 in the Centre, 3 to 6 elsewhere; noise of 15 %
    rent          6 per m2, more near the middle, 10 % more with a balcony; noise of 6 %
"""

from pathlib import Path

import numpy as np

DISTRICTS = ("Centre", "Harbour", "Hills", "Station")
DISTANCE = np.array([1.0, 3.0, 6.0, 4.0])
BALCONY = np.array([0.25, 0.5, 0.8, 0.25])

rng = np.random.default_rng(0)
count = 1000
district = rng.choice(4, count, p=[0.3, 0.2, 0.15, 0.35])
area = 65 * np.exp(0.3 * rng.standard_normal(count)) * np.where(district == 2, 4 / 3, 1)
rooms = np.clip(np.rint(area / 25 + 0.4 * rng.standard_normal(count)), 1, 6)
balcony = rng.random(count) < BALCONY[district]
distance = DISTANCE[district] * np.exp(0.15 * rng.standard_normal(count))
rent = 6 * area * (1 + 1 / (1 + distance)) * np.where(balcony, 1.1, 1) * np.exp(0.06 * rng.standard_normal(count))

lines = ["district,area_m2,rooms,balcony,distance_km,rent"]
for row in range(count):
    answer = "yes" if balcony[row] else "no"
    numbers = f"{area[row]:.1f},{rooms[row]:.0f},{answer},{distance[row]:.2f},{rent[row]:.0f}"
    lines.append(f"{DISTRICTS[district[row]]},{numbers}")
target = Path(__file__).parent / "src" / "tabular_gan" / "data" / "flats.csv"
target.write_text("\n".join(lines) + "\n")

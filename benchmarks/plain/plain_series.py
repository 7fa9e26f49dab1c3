"""Windows of a table the way most tutorials cut them: one window per `__getitem__`, slicing a DataFrame."""

from __future__ import annotations

import argparse

import pandas
import torch
from clock import Clock
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    """All windows of `context + horizon` consecutive rows of a table, sliced out one by one."""

    def __init__(self, table: pandas.DataFrame, context: int, horizon: int):
        self.table, self.context, self.horizon = table, context, horizon

    def __len__(self) -> int:
        return len(self.table) - self.context - self.horizon + 1

    def __getitem__(self, start: int) -> dict[str, torch.Tensor]:
        present = start + self.context
        past = self.table.iloc[start:present]
        future = self.table.iloc[present : present + self.horizon]
        return {
            "past_values": torch.tensor(past.values, dtype=torch.float32),
            "future_values": torch.tensor(future.values, dtype=torch.float32),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("series", "timestamp", "targets", "out"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("first", "context", "horizon", "batch", "epochs"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    clock = Clock()

    with clock.phase("read"):
        table = pandas.read_csv(options.series, parse_dates=[options.timestamp])
        table = table[options.targets.split(",")].iloc[: options.first]
        table = (table - table.mean()) / table.std(ddof=0)
        loader = DataLoader(
            Windows(table, options.context, options.horizon), batch_size=options.batch, shuffle=True
        )
    seen = 0
    with clock.phase("windows"):
        for _ in range(options.epochs):
            for batch in loader:
                seen += len(batch["past_values"])

    clock.write(options.out, rows={"windows": seen})


if __name__ == "__main__":
    main()

"""The mean of a measure at each rank, drawn: a chart for each measure."""

from collections.abc import Sequence

from PIL import Image

from dalle.evaluation.chart import Curve, chart
from dalle.systems.round_trip.by_rank import ByRank


def curves(results: Sequence[ByRank]) -> Image.Image:
    """One page: each measure by rank, and a level line at what taking any candidate gives."""
    charts = [_chart(result) for result in results]
    page = Image.new("RGB", (sum(one.width for one in charts), charts[0].height))
    left = 0
    for one in charts:
        page.paste(one, (left, 0))
        left += one.width
    return page


def _chart(result: ByRank) -> Image.Image:
    values = tuple(mean.value for mean in result.by_rank)
    return chart(
        f"{result.measure} by rank of similarity",
        across="rank",
        places=[str(rank + 1) for rank in range(len(values))],
        curves=[
            Curve(name="at this rank", values=values),
            Curve(name="any candidate", values=(result.mean,) * len(values)),
        ],
    )

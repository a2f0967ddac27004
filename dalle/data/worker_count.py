"""How many processes read data where nobody says: what the cores that may be used have to spare."""

from dalle.data.cores import usable_cores
from dalle.data.mixture import Chain
from dalle.data.split import Subset
from dalle.data.token_cache import CachedCodes
from dalle.data.tokens import EncodedSource
from dalle.protocols import Source, Stream

MOST = 16


def default_workers(source: Source | Stream, *, on_cpu: bool, processes: int) -> int:
    """Processes that read for one process that trains.

    None where codes are read: that takes less than handing them over. Else, where a GPU trains,
    each core but one; where the cores train themselves, a quarter of them.

    Args:
        on_cpu: whether the model is trained on the cores.
        processes: that train on this machine, among which its cores are divided.
    """
    if gives_codes(source):
        return 0
    cores = usable_cores() // max(1, processes)
    return max(0, min(MOST, cores // 4 if on_cpu else cores - 1))


def gives_codes(source: Source | Stream) -> bool:
    """Whether pictures were encoded before."""
    if isinstance(source, Subset):
        return gives_codes(source.source)
    if isinstance(source, Chain):
        return all(map(gives_codes, source.sources))
    return isinstance(source, CachedCodes | EncodedSource)

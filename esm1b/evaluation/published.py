"""Published numbers of ESM-1b and its neighbours, for the report to print beside ours.

None was measured here. Each protocol differs from ours in data or regression, and each entry says
how; a number without a source that can be opened is marked as second-hand.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Published:
    """A number as its source states it, in `unit`.

    `metric` is the name that our evaluation gives the nearest quantity, where there is one;
    `second_hand` marks numbers that were not read in the primary source.
    """

    model: str
    metric: str
    value: float
    unit: str
    protocol: str
    source: str
    second_hand: bool = False


_README_2020: Final = "facebookresearch/esm, README, December 2020"
_README_2021: Final = "facebookresearch/esm, README, July 2021"
_RIVES: Final = "Rives et al. 2021, PNAS 118:e2016239118, table 1"
_RAO: Final = "Rao et al. 2021, ICLR, table 1"

_TRROSETTA: Final = (
    "14,842 proteins of the trRosetta set, L1 logistic regression (C 0.15) fitted on 20 others, "
    "Cb-Cb < 8 angstrom, long range (separation >= 24)"
)
_HELD_OUT: Final = (
    "exponentiated cross-entropy at masked positions of held-out UniRef50 clusters, release 2018_03"
)
_CB513_Q8: Final = (
    "eight-state accuracy on CB513, NetSurf-type network on the features, trained on NetSurfP-2.0"
)
_CB513_Q3: Final = "three-state accuracy on CB513, per residue"


def _contacts(model: str, metric: str, percent: float, source: str = _README_2020) -> Published:
    return Published(
        model=model,
        metric=metric,
        value=round(percent / 100, 4),
        unit="fraction",
        protocol=_TRROSETTA,
        source=source,
    )


def _range(metric: str, percent: float) -> Published:
    return Published(
        model="ESM-1b",
        metric=metric,
        value=round(percent / 100, 4),
        unit="fraction",
        protocol=_TRROSETTA.replace("long range (separation >= 24)", "by range"),
        source=_RAO,
        second_hand=True,
    )


def _perplexity(model: str, value: float) -> Published:
    return Published(
        model=model,
        metric="perplexity",
        value=value,
        unit="perplexity",
        protocol=_HELD_OUT,
        source=_RIVES,
        second_hand=True,
    )


def _structure(
    model: str, percent: float, protocol: str, source: str, metric: str = "eight_state_accuracy"
) -> Published:
    return Published(
        model=model,
        metric=metric,
        value=round(percent / 100, 4),
        unit="fraction",
        protocol=protocol,
        source=source,
    )


# ESM-1b itself is no row of the table; its neighbours in size and data are. For two 34-layer models
# the accessible sources disagree (UR50/S 8.54 or 9.27, UR100 9.83 or 10.32), so they are left out.
PERPLEXITY: Final = (
    _perplexity("n-gram, best", 17.18),
    _perplexity("LSTM, 113 M", 13.5),
    _perplexity("ESM-1, 6 layers, 43 M", 11.79),
    _perplexity("ESM-1, 12 layers, 85 M", 10.45),
    _perplexity("ESM-1, 34 layers, 669 M, UR50/D", 8.46),
)

CONTACTS: Final = (
    _contacts("ESM-1b", "precision_at_L_long", 41.1),
    _contacts("ESM-1b", "precision_at_L5_long", 66.1),
    _contacts("ESM-1, 6 layers, 43 M", "precision_at_L_long", 13.2),
    _contacts("ESM-1, 6 layers, 43 M", "precision_at_L5_long", 21.5),
    _contacts("ESM-1, 12 layers, 85 M", "precision_at_L_long", 23.7),
    _contacts("ESM-1, 12 layers, 85 M", "precision_at_L5_long", 39.3),
    _contacts("ESM-1, 34 layers, 670 M", "precision_at_L_long", 34.7),
    _contacts("ESM-1, 34 layers, 670 M", "precision_at_L5_long", 56.0),
    _contacts("ESM-1v", "precision_at_L_long", 35.3, _README_2021),
    _contacts("TAPE transformer", "precision_at_L_long", 11.2),
    _contacts("TAPE transformer", "precision_at_L5_long", 17.9),
    _contacts("ProtBert-BFD", "precision_at_L_long", 34.1),
    _contacts("ProtBert-BFD", "precision_at_L5_long", 57.4),
    _contacts("Gremlin, from alignments", "precision_at_L_long", 39.3),
    _contacts("Gremlin, from alignments", "precision_at_L5_long", 62.8),
)

CONTACT_RANGES: Final = (
    _range("precision_at_L_short", 21.6),
    _range("precision_at_L2_short", 33.2),
    _range("precision_at_L5_short", 52.7),
    _range("precision_at_L_medium", 26.2),
    _range("precision_at_L2_medium", 38.6),
    _range("precision_at_L5_medium", 56.4),
    _range("precision_at_L_long", 41.1),
    _range("precision_at_L2_long", 53.3),
    _range("precision_at_L5_long", 66.1),
)

SECONDARY_STRUCTURE: Final = (
    _structure("ESM-1b", 71.6, _CB513_Q8, _README_2020),
    _structure("ESM-1, 6 layers, 43 M", 62.0, _CB513_Q8, _README_2020),
    _structure("ESM-1, 12 layers, 85 M", 65.4, _CB513_Q8, _README_2020),
    _structure("ESM-1, 34 layers, 670 M", 69.2, _CB513_Q8, _README_2020),
    _structure(
        "ESM-1b, with a CNN-BiLSTM on top",
        84.7,
        _CB513_Q3,
        "NetSurfP-3.0, Eryk96/NetSurfP-3.0, README",
        "three_state_accuracy_per_residue",
    ),
    _structure(
        "one-hot, convolutional network",
        69.0,
        _CB513_Q3,
        "TAPE, songlab-cal/tape, README",
        "three_state_accuracy_per_residue",
    ),
    _structure(
        "TAPE transformer",
        73.0,
        _CB513_Q3,
        "TAPE, songlab-cal/tape, README",
        "three_state_accuracy_per_residue",
    ),
)

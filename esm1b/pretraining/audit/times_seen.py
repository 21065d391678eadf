"""Which training sequences a run has seen how often, counted from its order and its records."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE
from esm1b.pretraining.skipped_updates import SkippedUpdate

_CHUNK: Final = 1 << 20
# Updates that are compared with the order one by one, evenly spaced, the first and the last among
# them: all of a short run.
_COMPARED: Final = 256
_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The sequences that a run has seen after a number of updates.

    Attributes:
        sequences: number of training sequences.
        whole_epochs: number of epochs that the updates hold completely.
        sequences_of_epoch: number of sequences of the next epoch, from its beginning.
        times_seen: number of sequences by the times that they were seen, skipped updates taken out.
        updates_compared: number of updates whose sequences were compared one by one with the order.
        lines_compared: number of lines of `metrics.jsonl` whose sequences were compared.
        failures: differences from what should be, in words.
        skipped: updates that changed nothing, with their sequences.
        counts: times that each sequence was seen, int32 `[sequences]`; not part of the JSON.
        ids: ids of the sequences in `skipped` by number; None where no corpus was given.
    """

    updates: int
    sequences: int
    whole_epochs: int
    sequences_of_epoch: int
    times_seen: Mapping[int, int]
    updates_compared: int
    lines_compared: int
    failures: Sequence[str]
    skipped: Sequence[SkippedUpdate]
    counts: NDArray[np.int32]
    ids: Mapping[int, str] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the content of `audit.json`."""
        skipped = [asdict(update) for update in self.skipped]
        if self.ids is not None:
            for update in skipped:
                update["ids"] = [self.ids.get(sequence) for sequence in update["sequences"]]
        times_seen = {str(times): count for times, count in self.times_seen.items()}
        content = vars(self) | {"times_seen": times_seen, "skipped": skipped}
        return {name: content[name] for name in content if name not in ("counts", "ids")}


def audit(
    order: SequenceOrder,
    updates: int,
    skipped: Sequence[SkippedUpdate] = (),
    *,
    logged: Iterable[tuple[int, int]] = (),
) -> Audit:
    """Count what `updates` updates have seen, and compare it with what the run recorded.

    Every epoch is counted sequence by sequence, not assumed to be whole. `skipped` is the record of
    the run; `logged` has (updates done, sequences seen until then) from its metrics. What comes
    after `updates` is left out of both.
    """
    seen = order.sequences_seen(updates)
    skipped = [update for update in skipped if update.update <= updates]
    numbers = np.linspace(0, updates - 1, min(updates, _COMPARED)).round().astype(np.int64)
    compared = np.unique(numbers).tolist()
    lines = [(update, seen) for update, seen in logged if update <= updates]
    counts, failures = _count(order, seen)
    failures += _out_of_turn(order, compared)
    failures += _unlike_order(order, skipped)
    failures += [
        f"{METRICS_FILE} has {seen:,} sequences at update {update:,}, not {due:,}"
        for update, seen in lines
        if seen != (due := order.sequences_seen(update))
    ]
    for update in skipped:
        taken_out = np.asarray(update.sequences, dtype=np.int64)
        is_known = (taken_out >= 0) & (taken_out < order.sequences)  # or it is among the failures
        np.subtract.at(counts, taken_out[is_known], 1)
    times_seen, occurrences = np.unique(counts, return_counts=True)
    return Audit(
        updates=updates,
        sequences=order.sequences,
        whole_epochs=seen // order.sequences,
        sequences_of_epoch=seen % order.sequences,
        times_seen=dict(zip(times_seen.tolist(), occurrences.tolist(), strict=True)),
        updates_compared=len(compared),
        lines_compared=len(lines),
        failures=failures,
        skipped=skipped,
        counts=counts,
    )


def _count(order: SequenceOrder, seen: int) -> tuple[NDArray[np.int32], list[str]]:
    """Return how often each sequence is among the first `seen`, and which epochs are wrong."""
    whole_epochs, begun = divmod(seen, order.sequences)
    counts = np.zeros(order.sequences, dtype=np.int32)
    failures = []
    for epoch in range(whole_epochs + 1):
        last = order.sequences if epoch < whole_epochs else begun
        for start in range(0, last, _CHUNK):
            ranks = np.arange(start, min(start + _CHUNK, last))
            np.add.at(counts, order.permuted(epoch, ranks), 1)
        if epoch < whole_epochs and not (counts == epoch + 1).all():
            failures.append(f"epoch {epoch + 1} does not hold every sequence once")
    if counts.max() > whole_epochs + 1:
        failures.append(f"epoch {whole_epochs + 1} holds a sequence twice")
    return counts, failures


def _out_of_turn(order: SequenceOrder, numbers: Sequence[int]) -> Iterator[str]:
    """Yield which updates do not hold the sequences between their two positions."""
    for number in numbers:
        members = order.update(number)
        places = np.arange(order.sequences_seen(number), order.sequences_seen(number + 1))
        epochs = places // order.sequences
        due = [
            order.permuted(epoch, places[epochs == epoch] % order.sequences)
            for epoch in np.unique(epochs).tolist()
        ]
        if not (
            np.array_equal(members.epochs, epochs)
            and np.array_equal(members.sequences, np.concatenate([*due, places[:0]]))
        ):
            yield f"update {number + 1} does not hold the sequences whose turn it is"


def _unlike_order(order: SequenceOrder, skipped: Sequence[SkippedUpdate]) -> Iterator[str]:
    """Yield which records of skipped updates name other sequences than the order."""
    for record in skipped:
        members = order.update(record.update - 1)
        due = (members.epochs.tolist(), members.sequences.tolist())
        if due != (list(record.epochs), list(record.sequences)):
            yield f"skipped update {record.update} is recorded with other sequences"
    for update, records in sorted(Counter(record.update for record in skipped).items()):
        if records > 1:
            yield f"skipped update {update} is recorded more than once"


def audit_text(audit: Audit) -> str:
    """Return the audit in words, for a terminal."""
    due = audit.whole_epochs * audit.sequences + audit.sequences_of_epoch
    taken_out = sum(len(update.sequences) for update in audit.skipped)
    numbers = {
        "updates": audit.updates,
        "training sequences": audit.sequences,
        "whole epochs": audit.whole_epochs,
        "sequences of the next epoch": audit.sequences_of_epoch,
        "sequences due in all": due,
        **{
            f"seen {times:,} time{'' if times == 1 else 's'}": count
            for times, count in audit.times_seen.items()
        },
        "skipped updates": len(audit.skipped),
        "sequences that they took out": taken_out,
        "updates compared one by one": audit.updates_compared,
        f"lines of {METRICS_FILE} compared": audit.lines_compared,
    }
    width = max(map(len, numbers))
    digits = max(len(f"{number:,}") for number in numbers.values())
    lines = [f"{label:<{width}}  {number:>{digits},}" for label, number in numbers.items()]
    lines += _skipped_lines(audit)
    if audit.failures:
        lines += [f"FAILED: {failure}" for failure in audit.failures]
    else:
        lines.append("every sequence came once in each epoch, and none out of turn")
    return "\n".join(lines)


def _skipped_lines(audit: Audit) -> Iterator[str]:
    for update in audit.skipped:
        names = [
            str(sequence) if audit.ids is None else audit.ids.get(sequence, f"number {sequence}")
            for sequence in update.sequences[:_SHOWN]
        ]
        more = len(update.sequences) - len(names)
        yield (
            f"update {update.update:,} was skipped: {'numbers ' if audit.ids is None else ''}"
            f"{', '.join(names)}{f' and {more:,} more' if more else ''}"
        )

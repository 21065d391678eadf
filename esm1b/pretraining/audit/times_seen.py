"""Which training sequences a run has seen how often, counted from its order and its records."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.order import SequenceOrder
from esm1b.pretraining.skipped_updates import SkippedUpdate

_AT_ONCE: Final = 1 << 20
# Updates that are compared with the order one by one, evenly spaced, the first and the last among
# them: all of a short run.
_COMPARED: Final = 256
_SHOWN: Final = 10


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What a run has seen after a number of updates.

    Attributes:
        updates: how many.
        sequences: training sequences.
        whole_epochs: how many the updates hold.
        sequences_of_epoch: sequences of the epoch after those, from its beginning.
        times_seen: sequences by how often they were seen, skipped updates taken out.
        skipped: updates that changed nothing, with their sequences.
        updates_compared: whose sequences were compared, one by one, with those of the order.
        lines_compared: lines of `metrics.jsonl` whose number of sequences was compared.
        failures: what is not as it should be, in words; none where all is.
    """

    updates: int
    sequences: int
    whole_epochs: int
    sequences_of_epoch: int
    times_seen: Mapping[int, int]
    skipped: Sequence[SkippedUpdate]
    updates_compared: int
    lines_compared: int
    failures: Sequence[str] = field(default_factory=tuple)

    def as_json(self, ids: Mapping[int, str] | None = None) -> dict[str, Any]:
        """Return all of it for a JSON file.

        Args:
            ids: by number of the sequence, of those in `skipped`; None leaves them out.
        """
        skipped = [asdict(update) for update in self.skipped]
        if ids is not None:
            for update in skipped:
                update["ids"] = [ids.get(sequence) for sequence in update["sequences"]]
        return {
            **{name: value for name, value in vars(self).items() if name != "skipped"},
            "times_seen": {str(times): count for times, count in self.times_seen.items()},
            "skipped": skipped,
            "failures": list(self.failures),
        }


def audit(
    order: SequenceOrder,
    updates: int,
    skipped: Sequence[SkippedUpdate] = (),
    *,
    sequences: int,
    logged: Iterable[tuple[int, int]] = (),
) -> Audit:
    """Count what `updates` updates have seen, and compare it with what the run recorded.

    Every epoch is counted sequence by sequence, not assumed to be whole.

    Args:
        order: of the run.
        updates: how many.
        skipped: what the run recorded; updates after `updates` are left out.
        sequences: training sequences.
        logged: from the metrics of the run, (updates, sequences seen up to there).
    """
    position = order.position(updates)
    skipped = [update for update in skipped if update.update <= updates]
    compared = _compared(updates)
    lines = [(update, seen) for update, seen in logged if update <= updates]
    counted, failures = _count(order, updates, sequences)
    failures += _out_of_turn(order, compared, sequences)
    failures += _unlike_order(order, skipped)
    failures += _unlike_log(order, lines)
    _take_out(counted, skipped)
    occurrences: Counter[int] = Counter()
    for start in range(0, sequences, _AT_ONCE):
        times, counts = np.unique(counted[start : start + _AT_ONCE], return_counts=True)
        occurrences.update(dict(zip(times.tolist(), counts.tolist(), strict=True)))
    return Audit(
        updates=updates,
        sequences=sequences,
        whole_epochs=position.epoch,
        sequences_of_epoch=position.sequences,
        times_seen=dict(sorted(occurrences.items())),
        skipped=skipped,
        updates_compared=len(compared),
        lines_compared=len(lines),
        failures=failures,
    )


def times_seen(
    order: SequenceOrder, updates: int, skipped: Sequence[SkippedUpdate] = (), *, sequences: int
) -> NDArray[np.int32]:
    """Return how often each sequence was seen, int32 `[sequences]`; arguments as of `audit`."""
    counted, _ = _count(order, updates, sequences)
    _take_out(counted, [update for update in skipped if update.update <= updates])
    return counted


def audit_text(audit: Audit, ids: Mapping[int, str] | None = None) -> str:
    """Return the audit in words, for a terminal; `ids` as of `Audit.as_json`."""
    due = audit.whole_epochs * audit.sequences + audit.sequences_of_epoch
    rows = [
        ("updates", f"{audit.updates:,}"),
        ("training sequences", f"{audit.sequences:,}"),
        ("whole epochs", f"{audit.whole_epochs:,}"),
        ("sequences of the next epoch", f"{audit.sequences_of_epoch:,}"),
        ("sequences due in all", f"{due:,}"),
    ]
    for times, count in audit.times_seen.items():
        rows.append((f"seen {times:,} time{'' if times == 1 else 's'}", f"{count:,}"))
    taken_out = sum(len(update.sequences) for update in audit.skipped)
    rows += [
        ("skipped updates", f"{len(audit.skipped):,}"),
        ("sequences that they took out", f"{taken_out:,}"),
        ("updates compared one by one", f"{audit.updates_compared:,}"),
        ("lines of metrics.jsonl compared", f"{audit.lines_compared:,}"),
    ]
    width = max(len(label) for label, _ in rows)
    digits = max(len(number) for _, number in rows)
    lines = [f"{label:<{width}}  {number:>{digits}}" for label, number in rows]
    lines += _skipped_lines(audit.skipped, ids)
    if audit.failures:
        lines += [f"FAILED: {failure}" for failure in audit.failures]
    else:
        lines.append("every sequence came once in each epoch, and none out of turn")
    return "\n".join(lines)


def _skipped_lines(
    skipped: Sequence[SkippedUpdate], ids: Mapping[int, str] | None
) -> Iterator[str]:
    for update in skipped:
        names = [
            str(sequence) if ids is None else ids.get(sequence, f"number {sequence}")
            for sequence in update.sequences[:_SHOWN]
        ]
        more = len(update.sequences) - len(names)
        yield (
            f"update {update.update:,} was skipped: {'' if ids is not None else 'numbers '}"
            f"{', '.join(names)}{f' and {more:,} more' if more else ''}"
        )


def _count(
    order: SequenceOrder, updates: int, sequences: int
) -> tuple[NDArray[np.int32], list[str]]:
    """Return how often each sequence was due, and what is wrong with the epochs."""
    position = order.position(updates)
    counted = np.zeros(sequences, dtype=np.int32)
    failures = []
    for epoch in range(position.epoch):
        _add(counted, order, epoch, sequences)
        if not (counted == epoch + 1).all():
            failures.append(f"epoch {epoch + 1} does not hold every sequence once")
    _add(counted, order, position.epoch, position.sequences)
    if counted.max() > position.epoch + 1:
        failures.append(f"epoch {position.epoch + 1} holds a sequence twice")
    return counted, failures


def _add(counted: NDArray[np.int32], order: SequenceOrder, epoch: int, last: int) -> None:
    """Count the first `last` sequences of an epoch."""
    for start in range(0, last, _AT_ONCE):
        ranks = np.arange(start, min(start + _AT_ONCE, last))
        np.add.at(counted, order.permuted(epoch, ranks), 1)


def _take_out(counted: NDArray[np.int32], skipped: Sequence[SkippedUpdate]) -> None:
    for update in skipped:
        sequences = np.asarray(update.sequences, dtype=np.int64)
        is_there = (sequences >= 0) & (sequences < len(counted))  # or the record is a failure
        np.subtract.at(counted, sequences[is_there], 1)


def _compared(updates: int) -> list[int]:
    """Return the numbers, counted from 0, of the updates to compare one by one."""
    if updates <= _COMPARED:
        return list(range(updates))
    return sorted({round(number) for number in np.linspace(0, updates - 1, _COMPARED)})


def _out_of_turn(order: SequenceOrder, numbers: Sequence[int], sequences: int) -> list[str]:
    """Return which updates do not hold the sequences between their two positions."""
    failures = []
    for number in numbers:
        members = order.update(number)
        places = np.arange(order.sequences_seen(number), order.sequences_seen(number + 1))
        epochs = places // sequences
        due = [
            order.permuted(epoch, places[epochs == epoch] % sequences)
            for epoch in np.unique(epochs).tolist()
        ]
        if not (
            np.array_equal(members.epochs, epochs)
            and np.array_equal(members.sequences, np.concatenate([*due, places[:0]]))
        ):
            failures.append(f"update {number + 1} does not hold the sequences whose turn it is")
    return failures


def _unlike_order(order: SequenceOrder, skipped: Sequence[SkippedUpdate]) -> list[str]:
    """Return which records of skipped updates name other sequences than the order."""
    failures = []
    for record in skipped:
        members = order.update(record.update - 1)
        if (members.epochs.tolist(), members.sequences.tolist()) != (
            list(record.epochs),
            list(record.sequences),
        ):
            failures.append(f"skipped update {record.update} is recorded with other sequences")
    numbers = sorted(record.update for record in skipped)
    failures += [
        f"skipped update {number} is recorded more than once"
        for number, group in itertools.groupby(numbers)
        if len(list(group)) > 1
    ]
    return failures


def _unlike_log(order: SequenceOrder, lines: Sequence[tuple[int, int]]) -> list[str]:
    """Return at which updates the log has another number of sequences than the order."""
    failures = []
    for update, seen in lines:
        due = order.sequences_seen(update)
        if seen != due:
            failures.append(
                f"metrics.jsonl has {seen:,} sequences at update {update:,}, not {due:,}"
            )
    return failures

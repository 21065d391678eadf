"""A pairwise (Potts) model of a protein family whose contact graph is a forest.

    p(x) = exp(sum_i fields[i, x_i] + sum_(i,j) couplings[(i,j), x_i, x_j]) / Z

Without cycles, belief propagation (Pearl 1988, "Probabilistic Reasoning in Intelligent Systems",
chapter 4) is exact: the partition function, marginals, conditionals and independent samples all
follow from messages along the edges. Messages are kept as normalised probabilities with their
logarithmic scale beside them, in float64 and for all sequences at once.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

STATES: Final = 20
"""Amino acids, in the order of `esm1b.alphabet.AMINO_ACIDS`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PottsForest:
    """Fields and couplings in nats (log-potentials), the edges a forest.

    Values at one site or edge may differ by some hundred nats before a weight underflows.

    Raises:
        ValueError: shapes disagree, a parameter is not finite, or the edges are not a forest.
    """

    fields: NDArray[np.float64]
    """`[length, 20]`"""
    edges: NDArray[np.int64]
    """`[edges, 2]`, first site below second"""
    couplings: NDArray[np.float64]
    """`[edges, 20, 20]`, axis 1 the residue at the first site, axis 2 at the second"""

    def __post_init__(self) -> None:
        for name, expected in (
            ("fields", (max(1, self.length), STATES)),
            ("edges", (len(self.edges), 2)),
            ("couplings", (len(self.edges), STATES, STATES)),
        ):
            if (shape := getattr(self, name).shape) != expected:
                raise ValueError(f"{name}: shape {shape}, expected {expected}")
        if not (np.isfinite(self.fields).all() and np.isfinite(self.couplings).all()):
            raise ValueError("fields and couplings must be finite")
        trees = DisjointSet(range(self.length))
        for first, second in self.edges.tolist():
            edge = f"edge ({first}, {second})"
            if not 0 <= first < second < self.length:
                raise ValueError(f"{edge}: expected 0 <= first < second < length {self.length}")
            if not trees.merge(first, second):
                raise ValueError(f"{edge}: closes a cycle; expected a forest")

    @property
    def length(self) -> int:
        """Number of sites."""
        return len(self.fields)

    @cached_property
    def log_partition(self) -> float:
        """The logarithm of Z (nats)."""
        return float(self._collect(np.ones((1, self.length, STATES)))[0][0])

    @cached_property
    def marginals(self) -> NDArray[np.float64]:
        """The probability of each residue at each site, `[length, 20]`."""
        _, beliefs = self._beliefs(np.ones((1, self.length, STATES)))
        return np.asarray(beliefs[0])

    def sample(self, count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
        """Return `count` independent sequences `[count, length]`, drawn exactly."""
        _, subtree = self._collect(np.ones((1, self.length, STATES)))
        sequences = np.empty((count, self.length), dtype=np.uint8)
        for site, parent, edge in self._order:
            uniform = generator.random(count)
            if edge < 0:
                cumulative = np.cumsum(subtree[0, site])[None, :]
            else:
                # p(site | parent), `[20 at the parent, 20 at the site]`
                given = subtree[0, site] * self._weights(site, edge).T
                table = np.cumsum(given / given.sum(axis=1, keepdims=True), axis=1)
                cumulative = table[sequences[:, parent]]
            # the last bound is 1 up to rounding: leave it out so that no draw goes past it
            sequences[:, site] = (uniform[:, None] >= cumulative[:, :-1]).sum(axis=1)
        return sequences

    def conditionals(
        self, sequences: NDArray[np.uint8], missing: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the evidence of the observed residues and the distribution of the missing ones.

        Args:
            sequences: amino-acid indices `[sequences, length]`; ignored where missing.
            missing: mask `[sequences, length]`.

        Returns:
            The log probability (nats) of the observed residues together `[sequences]`, and the
            distribution of each site given them `[sequences, length, 20]`; an observed site has
            probability 1 at its own residue.

        Raises:
            ValueError: shapes disagree or an observed residue is not one of the 20 amino acids.
        """
        if sequences.shape != missing.shape or sequences.shape[1:] != (self.length,):
            raise ValueError(
                f"sequences {sequences.shape} and missing {missing.shape}: "
                f"expected [sequences, {self.length}] twice"
            )
        if (sequences[~missing] >= STATES).any():
            raise ValueError("an observed residue is not one of the 20 amino acids")
        allowed = np.where(
            missing[:, :, None], 1.0, sequences[:, :, None] == np.arange(STATES, dtype=np.uint8)
        )
        log_scale, beliefs = self._beliefs(allowed)
        return log_scale - self.log_partition, beliefs

    @cached_property
    def _order(self) -> list[tuple[int, int, int]]:
        """Sites, parents before children, as (site, parent, edge to the parent); -1 at a root."""
        neighbours: list[list[tuple[int, int]]] = [[] for _ in range(self.length)]
        for edge, (first, second) in enumerate(self.edges.tolist()):
            neighbours[first].append((second, edge))
            neighbours[second].append((first, edge))
        order: list[tuple[int, int, int]] = []
        seen: set[int] = set()
        for root in range(self.length):
            stack = [] if root in seen else [(root, -1, -1)]
            while stack:
                site, parent, edge = stack.pop()
                seen.add(site)
                order.append((site, parent, edge))
                stack += [(other, site, e) for other, e in neighbours[site] if other != parent]
        return order

    def _weights(self, site: int, edge: int) -> NDArray[np.float64]:
        """exp(coupling), largest 1, `[20 at the site, 20 at the other end]`."""
        coupling = self.couplings[edge]
        weights = np.exp(coupling - coupling.max())
        return np.asarray(weights if site == self.edges[edge, 0] else weights.T)

    def _collect(
        self, allowed: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pass messages from the leaves to the roots.

        Args:
            allowed: `[sequences, length, 20]`, 1 where a site may have that residue, else 0.

        Returns:
            The log of the summed weight of all allowed sequences `[sequences]`, and for each site
            its distribution given its subtree alone `[sequences, length, 20]`.
        """
        top = self.fields.max(axis=1)
        subtree = allowed * np.exp(self.fields - top[:, None])
        log_scale = np.full(len(allowed), top.sum())
        for site, parent, edge in reversed(self._order):
            total = subtree[:, site].sum(axis=1)
            log_scale += np.log(total)
            subtree[:, site] /= total[:, None]
            if edge >= 0:
                subtree[:, parent] *= subtree[:, site] @ self._weights(site, edge)
                log_scale += self.couplings[edge].max()
        return log_scale, subtree

    def _beliefs(
        self, allowed: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return `_collect`'s log weight, and each site's distribution given everything."""
        log_scale, beliefs = self._collect(allowed)
        for site, parent, edge in self._order:
            if edge >= 0:
                # sum over the parent of p(parent | all) p(site | parent, the site's subtree)
                weights = self._weights(site, edge)
                message = beliefs[:, site] @ weights
                ratio = np.divide(
                    beliefs[:, parent], message, out=np.zeros_like(message), where=message > 0
                )
                beliefs[:, site] *= ratio @ weights.T
        return log_scale, beliefs

"""mmCIF files: gemmi reads the syntax, this module the few items that matter.

https://mmcif.wwpdb.org/dictionaries/mmcif_pdbx_v50.dic/Categories/atom_site.html
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gemmi import cif

from esm1b.evaluation.structures.residues import UNKNOWN, Atom, Contents, StructureError

Items = Callable[[str], Sequence[str]]
"""Returns the values of an item by its tag, "" for `.` and `?`; none where the file lacks it."""

_SECTIONS: Final = re.compile(r"^#.*$", re.MULTILINE)
_NEEDED: Final = re.compile(
    r"^_(atom_site|entity_poly_seq|pdbx_struct_mod_residue|struct_asym)\.", re.MULTILINE | re.I
)


class _Site(NamedTuple):
    """A row of atom_site, by the names of its items."""

    group_pdb: str
    type_symbol: str
    label_atom_id: str
    auth_atom_id: str
    label_alt_id: str
    label_comp_id: str
    auth_comp_id: str
    label_asym_id: str
    auth_asym_id: str
    label_entity_id: str
    label_seq_id: str
    auth_seq_id: str
    pdbx_pdb_ins_code: str
    cartn_x: str
    cartn_y: str
    cartn_z: str
    occupancy: str
    pdbx_pdb_model_num: str

    @property
    def name(self) -> str:
        """The atom's name."""
        return self.label_atom_id or self.auth_atom_id

    @property
    def residue(self) -> str:
        """The residue's name."""
        return self.label_comp_id or self.auth_comp_id


_Stated = dict[int, list[str]]
"""Residue names of an entity by place, from 1; several where residue types share a place."""


def read_mmcif(text: str) -> Contents:
    """Return what an mmCIF file says; it may hold nothing.

    Raises:
        StructureError: the file breaks the syntax, or see `contents_of`.
    """
    for block in _blocks(text.encode("ascii", "replace").decode()):
        if block.find_values("_atom_site.Cartn_x"):
            # Files that set categories apart by # do so after the atoms too.
            last = text.rstrip().rpartition("\n")[2]
            is_unfinished = "\n#" in text and last.startswith("ATOM")
            return contents_of(_items_of(block), is_unfinished=is_unfinished)
    return Contents(atoms={}, parents={}, stated={})


def _blocks(text: str) -> cif.Document:
    try:
        return cif.read_string(text, check_level=0)
    except (ValueError, RuntimeError) as error:
        needed = [section for section in _SECTIONS.split(text) if _NEEDED.search(section)]
        try:
            return cif.read_string("data_\n" + "\n".join(needed), check_level=0)
        except (ValueError, RuntimeError):
            # gemmi's place, string:LINE:COLUMN(BYTE), is of a string that nobody has seen.
            reason = re.sub(r"^string:(\d+)\S*", r"line \1:", str(error).splitlines()[0])
            raise StructureError(f"cannot be read as mmCIF: {reason}") from error


def _items_of(block: cif.Block) -> Items:
    return lambda tag: [cif.as_string(value) for value in block.find_values(tag)]


def contents_of(items: Items, *, is_unfinished: bool = False) -> Contents:
    """Return what the items of an mmCIF file say.

    Args:
        items: values by tag
        is_unfinished: True if the file ends after its last atom without a mark

    Raises:
        StructureError: a coordinate is not a number, or the items of a category differ in length.
    """
    entity_of_asym = dict(_rows(items, "struct_asym", "id", "entity_id"))
    entities = _entities(items)
    sites = [_Site(*row) for row in _rows(items, "atom_site", *_Site._fields)]
    atoms: dict[str, list[Atom]] = {}
    stated: dict[str, list[str]] = {}
    damaged: dict[str, str] = {}
    numbered = set()
    chains = _first_model(sites)
    for chain, rows in chains.items():
        alphas = [site for site in rows if site.name == "CA" and site.residue != "CA"]
        bound = [site for site in alphas if site.group_pdb != "HETATM"] or alphas
        is_numbered = all(site.label_seq_id.isdecimal() for site in bound)
        if is_numbered:
            numbered.add(chain)
        elif not any(site.auth_seq_id for site in bound):
            damaged[chain] = "atom_site has neither label_seq_id nor auth_seq_id"
        names: _Stated = {}
        if bound and entities:
            entity = bound[0].label_entity_id or entity_of_asym.get(bound[0].label_asym_id, "")
            try:
                names = _stated(entities, entity)
            except StructureError as error:
                damaged[chain] = str(error)
        if names:
            stated[chain] = [names[place][0] for place in sorted(names)]
        atoms[chain] = list(_atoms(rows, names, is_numbered=is_numbered))
    residues = _rows(items, "pdbx_struct_mod_residue", "label_comp_id", "parent_comp_id")
    ends = [chain for chain, rows in chains.items() if is_unfinished and rows[-1] is sites[-1]]
    return Contents(
        atoms=atoms,
        parents={name: parent for name, parent in residues if parent},
        stated=stated,
        numbered=frozenset(numbered),
        damaged=damaged,
        unfinished=ends[0] if ends else None,
    )


def _rows(items: Items, category: str, *names: str) -> Iterator[Any]:
    """Yield the values of some items of a category row by row, "" for what is absent."""
    columns = [items(f"_{category}.{name}") for name in names]
    lengths = {len(column) for column in columns if column}
    if len(lengths) > 1:
        raise StructureError(f"the items of {category} differ in number: {sorted(lengths)}")
    absent = [""] * max(lengths, default=0)
    return zip(*(column or absent for column in columns), strict=True)


def _entities(items: Items) -> dict[str, _Stated]:
    rows = list(_rows(items, "entity_poly_seq", "entity_id", "num", "mon_id"))
    is_numbered = any(number for _, number, _ in rows)
    entities: dict[str, _Stated] = {}
    for entity, number, name in rows:
        names = entities.setdefault(entity, {})
        if number.isdecimal() or not is_numbered:
            place = names.setdefault(int(number) if is_numbered else len(names) + 1, [])
            place.append(name)
    return entities


def _stated(entities: Mapping[str, _Stated], entity: str) -> _Stated:
    """Return what is stated of an entity, where something is stated of any.

    Raises:
        StructureError: it cannot be told from others, or it is not stated whole.
    """
    if not entity or "" in entities:  # then one sequence only can be that of any chain
        if len(entities) > 1:
            raise StructureError(
                "no entity id tells which sequence of entity_poly_seq belongs to it"
            )
        (entity,) = entities
    if entity not in entities:
        raise StructureError(f"entity_poly_seq does not list its entity {entity}")
    names = entities[entity]
    is_mixed = not entity and any(len(set(each)) > 1 for each in names.values())
    is_counted = sorted(names) == [*range(1, len(names) + 1)] != []
    if is_mixed or not is_counted or [""] in names.values():
        last = max(names, default=0)
        raise StructureError(f"entity_poly_seq does not name each residue from 1 to {last} once")
    return names


def _first_model(sites: Sequence[_Site]) -> dict[str, list[_Site]]:
    """Return the rows of the first model by the author's chain, or else by label_asym_id."""
    model = next((site.pdbx_pdb_model_num for site in sites if site.pdbx_pdb_model_num), "")
    has_author = any(site.auth_asym_id for site in sites)
    by_chain: dict[str, list[_Site]] = {}
    for site in sites:
        if site.pdbx_pdb_model_num in ("", model):
            by_chain.setdefault(site.auth_asym_id if has_author else site.label_asym_id, []).append(
                site
            )
    return by_chain


def _atoms(sites: Sequence[_Site], names: _Stated, *, is_numbered: bool) -> Iterator[Atom]:
    """Yield the atoms of a chain whose residue is known.

    Args:
        sites: rows of the chain
        names: stated residue names by place
        is_numbered: True if label_seq_id tells the residues apart
    """
    for site in sites:
        place = (
            (site.label_seq_id, "") if is_numbered else (site.auth_seq_id, site.pdbx_pdb_ins_code)
        )
        if not (place[0].isdecimal() if is_numbered else place[0]):
            continue
        is_stated = is_numbered and site.residue in names.get(int(site.label_seq_id), ())
        yield Atom(
            place=place,
            residue=site.residue,
            name=site.name,
            element=site.type_symbol.upper(),
            location=site.label_alt_id,
            occupancy=cif.as_number(site.occupancy, 1.0),
            position=_position(site),
            loose=site.group_pdb == "HETATM" and not is_stated,
        )


def _position(site: _Site) -> tuple[float, float, float]:
    texts = (site.cartn_x, site.cartn_y, site.cartn_z)
    x, y, z = (cif.as_number(text, math.nan) for text in texts)
    if not math.isfinite(x + y + z):
        if all(texts):
            raise StructureError(
                f"coordinates {' '.join(texts)!r} of an atom; expected three numbers"
            )
        return UNKNOWN
    return (x, y, z)

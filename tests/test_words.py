"""Every argument, attribute, option and key is described by a phrase that is understood alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FRAGMENT = re.compile(
    "(as|at|because|between|by|for|from|how|if|in|into|its|of|on|since|so|such|than|that|the same|"
    "those|to|until|up to|what|whatever|when|where|whether|which|while|who|whose|why|with|without)"
    r"(?![\w-])",
    re.IGNORECASE,
)
HEADING = re.compile(r"( *)(?!Raises|Returns|Yields|Example|Note)[A-Z]\w*:")
ENTRY = re.compile(r"( *)\*{0,2}(\w+)(?: \(.*?\))?: (.*)")

Description = tuple[int, str, str]  # line, name, first line of the text


def descriptions(source: str) -> Iterator[Description]:
    """Yield the descriptions in docstrings, under fields, and in `help=` of a Python file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg == "help":
            if isinstance(node.value, ast.Constant):
                yield node.value.lineno, "help", str(node.value.value)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            for before, text in zip([None, *node.body], node.body, strict=False):
                if not isinstance(text, ast.Expr) or not isinstance(text.value, ast.Constant):
                    continue
                if before is None:
                    yield from _entries(str(text.value.value), text.lineno)
                elif isinstance(before, ast.AnnAssign):
                    name = ast.unparse(before.target)
                    yield text.lineno, name, str(text.value.value).strip()


def _entries(docstring: str, first_line: int) -> Iterator[Description]:
    """Yield the entries of a docstring's sections: Args, Attributes, a command's groups."""
    margin = -1  # spaces before an entry of the section; -1 outside of sections
    for number, line in enumerate(docstring.splitlines(), first_line):
        if heading := HEADING.fullmatch(line):
            margin = len(heading[1]) + 4
        elif (entry := ENTRY.match(line)) and len(entry[1]) == margin:
            yield number, entry[2], entry[3]
        elif line.strip() and not line.startswith(" " * margin):
            margin = -1


def fragments(source: str) -> list[Description]:
    return sorted(found for found in descriptions(source) if FRAGMENT.match(found[2]))


GOOD = '''
class Shard:
    """A shard.

    Args:
        inputs: FASTA files, plain or gzip-compressed;
            of: the other kind.
        **output: In-memory table.
        seed (int): random seed
    Raises:
        UserError: if the input is damaged.
    """
    size: int
    """size in bytes"""
'''
BAD = '''
class Splits:
    def draw(a, b, c):
        """Draw.

        Args:
            a: of the split
        Selection:
            b (int): That is counted.
            c: number of draws
        """
    seed: int | None = None
    """the same, or None"""
Seed = Option(
    help="whether it is "
    "given",
)
'''


def test_phrases_pass() -> None:
    assert [name for _, name, _ in descriptions(GOOD)] == ["inputs", "output", "seed", "size"]
    assert fragments(GOOD) == []


def test_fragments_are_found() -> None:
    assert fragments(BAD) == [
        (7, "a", "of the split"),
        (9, "b", "That is counted."),
        (13, "seed", "the same, or None"),
        (15, "help", "whether it is given"),
    ]


def test_no_description_is_a_fragment() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}: {text}"
        for path in sorted([*ROOT.glob("esm1b/**/*.py"), *ROOT.glob("benchmarks/**/*.py")])
        for line, name, text in fragments(path.read_text(encoding="utf-8"))
    ]
    assert not found, "begin with a noun, so that it is understood alone:\n" + "\n".join(found)

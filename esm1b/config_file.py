"""Configuration files: YAML or JSON in which every key stands once."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from esm1b.errors import UserError, one_line


def read_config_file(path: Path) -> Any:
    """Return the content of a YAML or JSON file; None if it is empty.

    Raises:
        UserError: the file cannot be read, is neither YAML nor JSON, or gives a key twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        with suppress(ValueError):
            json.loads(text)
            text = text.replace("\t", " ")  # now it is YAML, which allows no tab there
        return _Loader(text).get_single_data()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start + 1} is not UTF-8; expected YAML") from error
    except _GivenTwiceError as error:
        raise UserError(f"{path}: {error}") from error
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = ", ".join(filter(None, [error.context, error.problem]))
        raise UserError(f"{path}: expected YAML: {place}{problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected YAML: {one_line(error)}") from error


class _GivenTwiceError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML's own loader keeps the last, and leaves dates be."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # here and not in the constructor: merged keys (`<<`) may be given again
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    places = f"on lines {lines[key.value]} and {line}"
                    raise _GivenTwiceError(f"{key.value}: given twice, {places}; expected once")
                lines[key.value] = line
        return node


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, date: date.value)

"""Names for the numbers of an answer."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """Titles of items and names of actions."""

    actions: tuple[str, ...] = ()
    titles: dict[str, str] = field(default_factory=dict)
    """Title by external item id, written as text."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read `{"actions": [name, ...], "titles": {item id: title}}`. Raises `ValueError` if the file is
        something else."""
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{path} holds a {type(content).__name__}; allowed: an object")
        actions, titles = content.get("actions", []), content.get("titles", {})
        if not isinstance(actions, list) or not all(isinstance(name, str) for name in actions):
            raise ValueError(f"actions of {path} are {actions!r:.100}; allowed: a list of names")
        if not isinstance(titles, dict) or not all(isinstance(title, str) for title in titles.values()):
            raise ValueError(f"titles of {path} are {titles!r:.100}; allowed: an object of names by item id")
        return cls(actions=tuple(actions), titles=titles)

    def with_added(self, path: Path) -> Self:
        """Return the same with the titles of a file that has a `{"item_id": …, "title": …}` in each line."""
        lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        return replace(self, titles=self.titles | {str(line["item_id"]): line["title"] for line in lines})

    def title(self, item_id: int) -> str:
        """Return the item's title, empty if it has none."""
        return self.titles.get(str(item_id), "")

    def action_names(self, count: int) -> list[str]:
        """Return the names of the first `count` actions, `action <number>` where one has no name."""
        return [self.actions[a] if a < len(self.actions) else f"action {a}" for a in range(count)]

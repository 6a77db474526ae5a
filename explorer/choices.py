"""What a visitor has chosen, kept by Streamlit from one change to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

FIRST_LIMIT = {"utility": 2.0, "outcome": 1.0}
"""How far sliders go unless the server's own weights are beyond."""
STEP = 0.05


@dataclass(frozen=True, slots=True)
class Weights:
    """Sliders of one kind of weights, one for each action; None is sent while nobody has moved one."""

    kind: str

    def given(self, actions: int) -> tuple[float, ...] | None:
        """Return the weights to send; None leaves them to the server. So do outcome weights of zeros alone,
        which a server refuses."""
        if not st.session_state.get(self._moved):
            return None
        found = tuple(float(st.session_state.get(self._key(action), 0.0)) for action in range(actions))
        return found if any(found) or self.kind != "outcome" else None

    def draw(self, names: Sequence[str], used: Sequence[float]) -> None:
        """Draw the sliders; until one is moved, they stand at the weights that the server used."""
        state = st.session_state
        if not state.get(self._moved):
            state[self._limit] = max(FIRST_LIMIT[self.kind], *used)
            state.update({self._key(action): float(weight) for action, weight in enumerate(used)})
        for action, name in enumerate(names):
            st.slider(
                name,
                0.0,
                float(state[self._limit]),
                step=STEP,
                key=self._key(action),
                on_change=_set,
                args=(self._moved, True),
            )
        if state.get(self._moved):
            st.button(
                "Back to the server's", key=f"{self.kind}-back", on_click=_set, args=(self._moved, False)
            )

    @property
    def _moved(self) -> str:
        return f"{self.kind}-moved"

    @property
    def _limit(self) -> str:
        return f"{self.kind}-limit"

    def _key(self, action: int) -> str:
        return f"{self.kind}-{action}"


class Excluded:
    """Items that must not come back."""

    KEY = "excluded"

    @property
    def item_ids(self) -> tuple[int, ...]:
        """Return them in the order in which they were left out."""
        return tuple(st.session_state.get(self.KEY, ()))

    def add(self, item_id: int) -> None:
        """Leave one more item out."""
        st.session_state[self.KEY] = [*self.item_ids, item_id]


def _set(key: str, value: Any) -> None:
    st.session_state[key] = value

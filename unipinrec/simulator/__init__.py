"""Synthetic logs with known truth: slates with several actions per item and logged uniform exploration."""

from unipinrec.simulator.config import SimulatorConfig
from unipinrec.simulator.simulation import Simulation, prepare_simulation, simulate
from unipinrec.simulator.truth import Truth

__all__ = ["Simulation", "SimulatorConfig", "Truth", "prepare_simulation", "simulate"]

"""Simulation: synthetic tissue whose truth is known, as a slide, its mask and a table of its cells."""

from mxsplicer.simulation.settings import MARKERS
from mxsplicer.simulation.simulate import SimulatedSlide, simulate_slide

__all__ = ["MARKERS", "SimulatedSlide", "simulate_slide"]

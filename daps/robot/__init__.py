"""Codes as commands of a humanoid: simulation, tracking and planning for the Unitree G1. Needs the extra `robot`."""

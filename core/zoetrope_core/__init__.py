"""Requests, numerics, contracts and errors of Zoetrope: numpy and the standard library only."""

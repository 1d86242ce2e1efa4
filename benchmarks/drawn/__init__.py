"""Nights drawn at random, providers in virtual time, and the optimum that knows the draw."""

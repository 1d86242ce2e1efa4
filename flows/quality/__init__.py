"""Scoring, audit, certificate, repair, publication."""

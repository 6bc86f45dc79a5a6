"""Computes hours and USD: of a training, of serving, beside published figures, corrected by finished
trainings.
"""

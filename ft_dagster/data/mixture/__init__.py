"""Mixes own rows and general text into what a variant trains on."""

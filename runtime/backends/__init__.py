"""Executors of a bundle's graphs and plans, one file each, and which of them this machine has."""

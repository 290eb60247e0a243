"""Planners that jedlik's is compared with, re-implemented from what their authors publish; they never flip a role."""

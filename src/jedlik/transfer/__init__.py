"""Carries KV blocks: between processes, hosts and tiers. Decides nothing about which blocks go where."""

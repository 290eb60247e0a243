"""Who is there: how gateways find workers."""

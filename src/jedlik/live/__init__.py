"""F5: the real world: drives nodes on asyncio, records events, supervises processes."""

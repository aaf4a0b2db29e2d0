"""The fast engine: the searches of AutoAttack in slots of fixed shape."""

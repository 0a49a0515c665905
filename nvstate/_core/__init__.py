"""What every operation shares: specs, plans, placement, primitives, lowering."""

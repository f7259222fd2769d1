"""How far to trust a restoration: intervals, spread, shift, and what follows from them."""

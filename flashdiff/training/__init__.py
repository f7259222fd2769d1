"""How networks are trained: one loop, and what it trains: the prior, its feature classifier, the severity encoder."""

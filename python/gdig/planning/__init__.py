"""Planning: what a run will do and cost, told before it begins."""

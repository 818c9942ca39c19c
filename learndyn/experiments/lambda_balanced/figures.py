def figures(r): return []

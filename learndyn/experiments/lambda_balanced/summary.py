def lead(r): return []
def notes(r): return []
def tables(r): return []

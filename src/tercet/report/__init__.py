"""One self-contained HTML page about a run: figures with baselines, real search results, hardest pairs, provenance."""

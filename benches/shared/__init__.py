"""What several benches share: machine and commit, tables, memory, resumable steps, gradients, BM25, starts of gdig."""

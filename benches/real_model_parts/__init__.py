"""Steps of `benches.real_model` beside gdig's: the plain pass and the other libraries, each a process of its own."""

"""The model: loading, its layers, and the pass that gives each layer's inputs and output gradients."""

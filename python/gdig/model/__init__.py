"""The model: how it is loaded, its layers, and the pass that gives each layer's inputs and output gradients."""

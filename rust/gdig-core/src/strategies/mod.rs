//! Loops of the methods of choosing that are too heavy for Python.

pub mod neighbours;

"""The tests, and in `support` what several of them and the benches share."""

"""Why a row has its score, and what a seed is helped by."""

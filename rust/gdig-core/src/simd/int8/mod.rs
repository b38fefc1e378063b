//! int8 rows as they are stored, with a scale each, by exact integer sums.
//!
//! With m the mean of the centroids, c - m is rounded to t q_c, q_c of int8 and t = max|c - m| / 127 for each centroid,
//! and the score of a row s q_x is (|c|^2 - |m|^2)/2 - s t (q_x . q_c): |c|^2/2 - x.c up to a number that all centroids
//! share. The product is exact, and what follows is float32: t times the product, rounded, and one fused multiply-add.
//! So all int8 kernels give the same labels. A score is off by at most
//! |s| t |q_x|_1 (1/2 + 127 . 2^-22) + 2^-23 |(|c|^2 - |m|^2)/2|.

pub mod known;
pub mod panels;
pub mod portable;
#[cfg(test)]
mod tests;

pub use super::rounded::{rounded, Rounded, MAX_DIM};

//! What 64-bit ARM processors have:
//!
//! - NEON: all of them;
//! - the dot product of bytes: those since ARMv8.2 (Graviton 2, Apple's M1);
//! - products of matrices of bytes and of bfloat16: those since ARMv8.6 (Graviton 3, Grace, Apple's M2).

pub mod bf16;
pub mod int8;
pub mod neon;

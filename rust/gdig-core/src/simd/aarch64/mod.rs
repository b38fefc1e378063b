//! What 64-bit ARM processors have: NEON all of them, the dot product of bytes those since ARMv8.2 (Graviton 2, Grace,
//! Apple's).

pub mod int8;
pub mod neon;

//! Rows of any stored type, converted to float32 for computing and from floats for storing.

use bytemuck::{cast_slice, Pod};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use xxhash_rust::xxh3::Xxh3;

use crate::{Dtype, Error, Result};

/// Borrowed rows [n, dim] in C order. An int8 row is its bytes times its scale.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    dtype: Dtype,
    dim: usize,
    bytes: &'a [u8],
    scales: &'a [f32],
}

impl<'a> Rows<'a> {
    /// `bytes` must be aligned to `dtype`, so that decoding may view them as elements. `scales` has one number for each
    /// int8 row, and is empty for every other type.
    pub fn new(dtype: Dtype, dim: usize, bytes: &'a [u8], scales: &'a [f32]) -> Result<Rows<'a>> {
        let row = dim * dtype.size();
        let readable = matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8);
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(dtype.size());
        if dim == 0 || !readable || !bytes.len().is_multiple_of(row) || !aligned {
            let what = "expected aligned rows of at least one column, of float64, float32, float16, bfloat16 or int8";
            return Err(Error::input(format!("{what}; got {} bytes, {dim} columns of {}", bytes.len(), dtype.name())));
        }
        let n = bytes.len() / row;
        let expected = if dtype == Dtype::I8 { n } else { 0 };
        if scales.len() != expected {
            return Err(Error::input(format!("expected {expected} scales for {n} rows, got {}", scales.len())));
        }
        Ok(Rows { dtype, dim, bytes, scales })
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / (self.dim * self.dtype.size())
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Rows `start..stop`.
    pub fn slice(&self, start: usize, stop: usize) -> Rows<'a> {
        let row = self.dim * self.dtype.size();
        let scales = if self.scales.is_empty() { self.scales } else { &self.scales[start..stop] };
        Rows { bytes: &self.bytes[start * row..stop * row], scales, ..*self }
    }

    /// The rows as they are stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// One number for each int8 row; empty for every other type.
    pub fn scales(&self) -> &'a [f32] {
        self.scales
    }

    /// Feed the stored bytes to a hash.
    pub fn hash_into(&self, hash: &mut Xxh3) {
        hash.update(self.bytes);
        hash.update(cast_slice(self.scales));
        hash.update(self.dtype.name().as_bytes());
    }

    /// Write row `i` to `out`, [dim], as float32. `half` converts float16. The compiler inlines this function into the
    /// functions of an instruction set; it does not inline `decode`.
    #[inline(always)]
    pub fn decode_row(&self, i: usize, out: &mut [f32], half: impl FnOnce(&[f16], &mut [f32])) {
        let row = &self.bytes[i * self.dim * self.dtype.size()..][..self.dim * self.dtype.size()];
        match self.dtype {
            Dtype::F32 => out.copy_from_slice(cast_slice(row)),
            Dtype::F16 => half(cast_slice(row), out),
            Dtype::BF16 => each(cast_slice::<u8, u16>(row), out, |bits| f32::from_bits(u32::from(bits) << 16)),
            Dtype::F64 => each(cast_slice::<u8, f64>(row), out, |x| x as f32),
            Dtype::I8 => each(cast_slice::<u8, i8>(row), out, |q| f32::from(q) * self.scales[i]),
            _ => unreachable!("the constructor lets no other dtype pass"),
        }
    }

    /// Write all rows to `out`, [len, dim], as float32. float64 is rounded to nearest.
    pub fn decode(&self, out: &mut [f32]) {
        // The constructor has checked the alignment that the casts need.
        match self.dtype {
            Dtype::F32 => out.copy_from_slice(cast_slice(self.bytes)),
            Dtype::F16 => cast_slice::<u8, f16>(self.bytes).convert_to_f32_slice(out),
            Dtype::BF16 => each(cast_slice::<u8, bf16>(self.bytes), out, |x| x.to_f32()),
            Dtype::F64 => each(cast_slice::<u8, f64>(self.bytes), out, |x| x as f32),
            Dtype::I8 => {
                let rows = cast_slice::<u8, i8>(self.bytes).chunks_exact(self.dim);
                for ((row, out), scale) in rows.zip(out.chunks_exact_mut(self.dim)).zip(self.scales) {
                    each(row, out, |q| f32::from(q) * scale);
                }
            }
            _ => unreachable!("the constructor lets no other dtype pass"),
        }
    }
}

#[inline(always)]
fn each<T: Pod>(from: &[T], to: &mut [f32], convert: impl Fn(T) -> f32) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = convert(from));
}

/// Append rows to `out` in the type `dtype` of a store, and int8 scales to `scales`. An error counts rows from
/// `first_row`.
///
/// int8: q = round(x / scale), scale = max|x| / 127, and scale 0 for a row of zeros.
pub fn encode(
    rows: Rows,
    dtype: Dtype,
    first_row: usize,
    out: &mut Vec<u8>,
    scales: &mut Vec<f32>,
) -> std::result::Result<(), String> {
    let mut row = vec![0f32; rows.dim];
    let mut small = vec![0u16; rows.dim];
    for i in 0..rows.len() {
        rows.slice(i, i + 1).decode(&mut row);
        let number = first_row + i;
        if let Some((column, x)) = row.iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(format!("row {number}, column {column}: expected a finite number, got {x}"));
        }
        let overflow = |limit: f32| {
            let (column, x) = row.iter().enumerate().find(|(_, x)| x.abs() >= limit).unwrap_or((0, &row[0]));
            let hint = "scale the rows down, or store them as float32";
            format!("row {number}, column {column}: expected a number that {} holds, got {x}; {hint}", dtype.name())
        };
        match dtype {
            Dtype::F32 => out.extend_from_slice(cast_slice(&row)),
            Dtype::F16 => {
                let half: &mut [f16] = bytemuck::cast_slice_mut(&mut small);
                half.convert_from_f32_slice(&row);
                if half.iter().any(|h| !h.is_finite()) {
                    return Err(overflow(65520.0));
                }
                out.extend_from_slice(cast_slice(&small));
            }
            Dtype::BF16 => {
                let half: &mut [bf16] = bytemuck::cast_slice_mut(&mut small);
                half.convert_from_f32_slice(&row);
                if half.iter().any(|h| !h.is_finite()) {
                    return Err(overflow(f32::from_bits(0x7f7f_8000)));
                }
                out.extend_from_slice(cast_slice(&small));
            }
            Dtype::I8 => {
                let scale = row.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
                // The scale of a very small row underflows to 0. Such a row is stored as zeros.
                let q = |x: &f32| if scale == 0.0 { 0 } else { (x / scale).round_ties_even() as i8 };
                out.extend(row.iter().map(|x| q(x) as u8));
                scales.push(scale);
            }
            _ => unreachable!("a store's dtype is checked when it is made"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(values: &[f32], dim: usize, dtype: Dtype) -> Vec<f32> {
        let (mut bytes, mut scales) = (Vec::new(), Vec::new());
        let rows = Rows::new(Dtype::F32, dim, cast_slice(values), &[]).unwrap();
        encode(rows, dtype, 0, &mut bytes, &mut scales).unwrap();
        // A Vec<u64> is aligned to every element type.
        let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut aligned)[..bytes.len()].copy_from_slice(&bytes);
        let view = &cast_slice::<u64, u8>(&aligned)[..bytes.len()];
        let mut out = vec![f32::NAN; values.len()];
        Rows::new(dtype, dim, view, &scales).unwrap().decode(&mut out);
        out
    }

    proptest! {
            /// Rounding to nearest: half a unit in the last of 11, 8 or 24 bits; for int8 half a step of the row's
            /// scale, plus the roundings of the division and the product (3 units of 2^-24 of up to 127 steps).
            #[test]
            fn decoding_what_was_encoded_is_off_by_half_a_step(
                values in proptest::collection::vec(-1000f32..1000.0, 12), dim in proptest::sample::select(vec![1, 3, 4, 12])
            ) {
                for (dtype, relative) in [(Dtype::F32, 0.0), (Dtype::F16, 2f32.powi(-11)), (Dtype::BF16, 2f32.powi(-8))] {
                    for (a, b) in values.iter().zip(round_trip(&values, dim, dtype)) {
                        // Below the smallest normal half the step is absolute, 2^-24.
    let step = relative * a.abs() + if relative > 0.0 { 2f32.powi(-25) } else { 0.0 };
                        prop_assert!((a - b).abs() <= step);
                    }
                }
                let out = round_trip(&values, dim, Dtype::I8);
                for (a, b) in values.chunks(dim).zip(out.chunks(dim)) {
                    let scale = a.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
                    for (x, y) in a.iter().zip(b) {
                        prop_assert!((x - y).abs() <= scale * (0.5 + 127.0 * 3.0 * 2f32.powi(-24)));
                    }
                }
            }
        }

    #[test]
    fn a_row_of_zeros_has_scale_zero() {
        assert_eq!(round_trip(&[0.0, 0.0, 1.0, -1.0], 2, Dtype::I8), [0.0, 0.0, 1.0, -1.0]);
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let refused = |values: &[f32], dtype| {
            let rows = Rows::new(Dtype::F32, 2, cast_slice(values), &[]).unwrap();
            encode(rows, dtype, 10, &mut Vec::new(), &mut Vec::new()).unwrap_err()
        };
        assert!(refused(&[0.0, 0.0, 0.0, 65520.0], Dtype::F16)
            .starts_with("row 11, column 1: expected a number that float16 holds, got 65520;"));
        assert!(refused(&[0.0, f32::MAX], Dtype::BF16).starts_with("row 10, column 1"));
        assert!(refused(&[f32::NAN, 0.0], Dtype::I8).starts_with("row 10, column 0: expected a finite number, got NaN"));
        assert!(refused(&[0.0, f32::INFINITY], Dtype::F32)
            .starts_with("row 10, column 1: expected a finite number, got inf"));
    }
}

//! Element types, and their names in a safetensors header and in NumPy.

/// An element type that a tensor file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I8,
    U64,
    U32,
    U8,
}

/// Safetensors name, NumPy name, bytes. NumPy has no bfloat16: Python sees its bits as uint16.
const TABLE: [(Dtype, &str, &str, usize); 10] = [
    (Dtype::F64, "F64", "float64", 8),
    (Dtype::F32, "F32", "float32", 4),
    (Dtype::F16, "F16", "float16", 2),
    (Dtype::BF16, "BF16", "bfloat16", 2),
    (Dtype::I64, "I64", "int64", 8),
    (Dtype::I32, "I32", "int32", 4),
    (Dtype::I8, "I8", "int8", 1),
    (Dtype::U64, "U64", "uint64", 8),
    (Dtype::U32, "U32", "uint32", 4),
    (Dtype::U8, "U8", "uint8", 1),
];

impl Dtype {
    fn entry(self) -> &'static (Dtype, &'static str, &'static str, usize) {
        // Every variant has a line in the table; the test below counts the lines.
        TABLE.iter().find(|entry| entry.0 == self).expect("every dtype is in the table")
    }

    pub fn size(self) -> usize {
        self.entry().3
    }

    pub fn safetensors_name(self) -> &'static str {
        self.entry().1
    }

    pub fn name(self) -> &'static str {
        self.entry().2
    }

    pub fn from_safetensors(name: &str) -> Option<Dtype> {
        TABLE.iter().find(|entry| entry.1 == name).map(|entry| entry.0)
    }

    pub fn from_name(name: &str) -> Option<Dtype> {
        TABLE.iter().find(|entry| entry.2 == name).map(|entry| entry.0)
    }

    /// Whether a store may hold its rows in this type.
    pub fn is_sketch(self) -> bool {
        matches!(self, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::I8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_dtype() {
        use Dtype::*;
        for dtype in [F64, F32, F16, BF16, I64, I32, I8, U64, U32, U8] {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            assert_eq!(Dtype::from_safetensors(dtype.safetensors_name()), Some(dtype));
            assert!(dtype.size().is_power_of_two());
        }
    }
}

//! The element types of tensors, and their sizes.

/// A tensor's element type, by its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType(pub u32);

impl GgmlType {
    /// 32-bit floats.
    pub const F32: Self = Self(0);
    /// 16-bit floats.
    pub const F16: Self = Self(1);
    /// Blocks of 32 four-bit numbers with one scale.
    pub const Q4_0: Self = Self(2);
    /// Blocks of 32 four-bit numbers with a scale and an offset.
    pub const Q4_1: Self = Self(3);
    /// Blocks of 256 four-bit numbers with a scale and an offset for each 32.
    pub const Q4_K: Self = Self(12);
    /// Blocks of 256 six-bit numbers with a scale for each 16.
    pub const Q6_K: Self = Self(14);
    /// Blocks of 32 eight-bit numbers with one scale.
    pub const Q8_0: Self = Self(8);

    /// Returns the elements and the bytes of a block, or `None` for a type that is not in this
    /// table. Whether that can be loaded is up to llama.cpp.
    pub fn block(self) -> Option<(u64, u64)> {
        // The numbers follow llama.cpp's `enum ggml_type`; the gaps are types that it removed.
        Some(match self.0 {
            0 | 26 => (1, 4),      // F32, I32
            1 | 25 | 30 => (1, 2), // F16, I16, BF16
            2 | 20 => (32, 18),    // Q4_0, IQ4_NL
            3 => (32, 20),         // Q4_1
            6 => (32, 22),         // Q5_0
            7 => (32, 24),         // Q5_1
            8 => (32, 34),         // Q8_0
            9 => (32, 36),         // Q8_1
            10 => (256, 84),       // Q2_K
            11 | 21 => (256, 110), // Q3_K, IQ3_S
            12 => (256, 144),      // Q4_K
            13 => (256, 176),      // Q5_K
            14 => (256, 210),      // Q6_K
            15 => (256, 292),      // Q8_K
            16 | 35 => (256, 66),  // IQ2_XXS, TQ2_0
            17 => (256, 74),       // IQ2_XS
            18 => (256, 98),       // IQ3_XXS
            19 => (256, 50),       // IQ1_S
            22 => (256, 82),       // IQ2_S
            23 => (256, 136),      // IQ4_XS
            24 => (1, 1),          // I8
            27 | 28 => (1, 8),     // I64, F64
            29 => (256, 56),       // IQ1_M
            34 => (256, 54),       // TQ1_0
            39 => (32, 17),        // MXFP4
            40 => (64, 36),        // NVFP4
            _ => return None,
        })
    }

    /// Returns the size in bytes of a tensor of this type and shape. `None` if the type is unknown,
    /// the rows do not divide into blocks, or the size overflows.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        let (elements, bytes) = self.block()?;
        let row = *shape.first().unwrap_or(&1);
        if !row.is_multiple_of(elements) {
            return None;
        }
        shape.iter().skip(1).try_fold((row / elements).checked_mul(bytes)?, |total, dimension| {
            total.checked_mul(*dimension)
        })
    }
}

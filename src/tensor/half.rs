//! How f16 are stored: two to a word, the first in the lower half. The functions of ops on the CPU and kernels know nothing of it:
//! they see each number as the bits of an f32 ([`super::machine`], `wgsl/lib/strided.wgsl`).

use super::Dtype;
use crate::numerics::{f16_bits, f16_value};

impl Dtype {
    /// Words that so many elements are stored in.
    pub(super) fn words(self, elements: usize) -> usize {
        match self {
            Self::F16 => elements.div_ceil(2),
            Self::F32 | Self::I32 => elements,
        }
    }

    /// The words of elements as they are stored.
    pub(super) fn packed(self, words: Vec<u32>) -> Vec<u32> {
        let half = |word: &u32| f16_bits(f32::from_bits(*word));
        match self {
            Self::F16 => words.chunks(2).map(|pair| half(&pair[0]) | pair.get(1).map_or(0, half) << 16).collect(),
            Self::F32 | Self::I32 => words,
        }
    }

    /// The words of so many elements that are stored.
    pub(super) fn unpacked(self, stored: &[u32], elements: usize) -> Vec<u32> {
        let half = |i: usize| f16_value(stored[i / 2] >> (16 * (i % 2)) & 0xffff).to_bits();
        match self {
            Self::F16 => (0..elements).map(half).collect(),
            Self::F32 | Self::I32 => stored.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::gpu::AdapterOptions;
    use crate::tensor::{Space, Tensor};

    /// Bytes that a computed tensor takes in the host's memory and on the GPU.
    fn bytes(t: &Tensor) -> [u64; 2] {
        t.compute().unwrap();
        let values = t.node.values.borrow();
        [
            values.words.as_ref().map_or(0, |words| 4 * words.len() as u64),
            values.buffer.as_ref().map_or(0, |room| room.buffer.size()),
        ]
    }

    /// An f16 takes two bytes where it is computed and where it is read back.
    #[test]
    fn halves_take_half_the_memory() {
        let space = Space::both(&AdapterOptions::default()).unwrap();
        let n = 1 << 20;
        let x = space.random(&[n], 1).unwrap().neg().unwrap();
        let half = x.half().unwrap();
        assert_eq!(bytes(&x), [4 * n as u64; 2]);
        assert_eq!(bytes(&half), [2 * n as u64; 2]);
        let odd = space.random(&[2, n / 2 + 1], 1).unwrap().half().unwrap().slice(1, Some(1), None, 1).unwrap();
        assert_eq!(bytes(&odd.reshape(&[-1]).unwrap()), [2 * n as u64; 2]);
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let words = [1.0f32, -0.5, 65504.0, 2f32.powi(-24), 3.0].map(f32::to_bits);
        for n in 0..=words.len() {
            let stored = Dtype::F16.packed(words[..n].to_vec());
            assert_eq!(stored.len(), Dtype::F16.words(n));
            assert_eq!(Dtype::F16.unpacked(&stored, n), words[..n]);
        }
    }
}

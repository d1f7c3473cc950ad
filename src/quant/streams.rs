//! Blocks as a GPU stores them: the same byte range of all blocks of a matrix is one contiguous stream ([`Format::streams`]).

use super::Format;

impl Format {
    /// The word offsets of the streams of so many blocks, one after the other, each from a multiple of 16 bytes on, and all
    /// their bytes.
    pub(crate) fn layout(&self, blocks: usize) -> ([u32; 4], usize) {
        let (mut offsets, mut end) = ([0; 4], 0usize);
        for (&(_, len), offset) in self.streams.iter().zip(&mut offsets) {
            let start = end.next_multiple_of(16);
            *offset = (start / 4) as u32;
            end = start + blocks * len;
        }
        (offsets, end)
    }

    /// Copies a stream of whole blocks, which fills `out`.
    pub(crate) fn copy_stream(&self, out: &mut [u8], raw: &[u8], (at, len): (usize, usize)) {
        /// A length that is known when this is compiled takes no call for each block.
        fn fixed<const N: usize>(out: &mut [u8], bytes: usize, raw: &[u8], at: usize) {
            for (out, block) in out.chunks_exact_mut(N).zip(raw.chunks_exact(bytes)) {
                out.copy_from_slice(&block[at..][..N]);
            }
        }
        match len {
            _ if len == self.bytes => out.copy_from_slice(raw),
            2 => fixed::<2>(out, self.bytes, raw, at),
            4 => fixed::<4>(out, self.bytes, raw, at),
            16 => fixed::<16>(out, self.bytes, raw, at),
            32 => fixed::<32>(out, self.bytes, raw, at),
            _ => {
                for (out, block) in out.chunks_exact_mut(len).zip(raw.chunks_exact(self.bytes)) {
                    out.copy_from_slice(&block[at..][..len]);
                }
            }
        }
    }

    /// The streams of whole blocks, as a buffer of weights holds them, and their word offsets.
    pub fn split(&self, raw: &[u8]) -> (Vec<u8>, [u32; 4]) {
        let blocks = raw.len() / self.bytes;
        let (offsets, bytes) = self.layout(blocks);
        let mut out = vec![0; bytes];
        for (&stream, offset) in self.streams.iter().zip(offsets) {
            let out = &mut out[4 * offset as usize..][..blocks * stream.1];
            self.copy_stream(out, &raw[..blocks * self.bytes], stream);
        }
        (out, offsets)
    }
}

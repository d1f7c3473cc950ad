//! The text of the matrix kernels; a module that uses it supplies the vector operations.
//!
//! A lane is a row of the matrix, so every lane does what the scalar twin (`Format::dot`) does, in the same order; only
//! sums of integers are ordered otherwise.

macro_rules! kernels {
    ($features:literal) => {
        /// The eight vectors of a chunk: vector `j` has weights `4j..4j + 4` of each row.
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) unsafe fn unpack<const BITS: usize, const TABLE: bool, const N: usize>(
            p: *const u8,
            table: I,
        ) -> [I; 8] {
            let mut w = [zero(); 8];
            // SAFETY: a chunk has 64 bytes per bit.
            unsafe {
                let line = |j: usize| load(p.add(64 * j));
                if BITS == 8 {
                    for (j, w) in w.iter_mut().enumerate() {
                        *w = line(j);
                    }
                    return w;
                }
                for j in 0..4 {
                    let v = line(j);
                    (w[j], w[j + 4]) = (low(v), if raised(BITS, TABLE, N) { raised_high(v) } else { high(v) });
                }
                if BITS > 4 {
                    let more = BITS - 4;
                    let mask = splat(((1 << more) - 1) * 0x1010_1010);
                    for (j, w) in w.iter_mut().enumerate() {
                        let (line, field) = (line(4 + j * more / 8), j % (8 / more));
                        *w = with_bits(*w, shift(line, 4 - (more * field) as i32), mask);
                    }
                }
            }
            if TABLE { w.map(|w| look_up(table, w)) } else { w }
        }

        /// Adds the products of a chunk's weights with 32 activations: times the scales of its sub-blocks, where it has
        /// such.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn dot_chunk<const BITS: usize, const TABLE: bool, const SUB: usize, const N: usize>(
            sum: I,
            w: &[I; 8],
            x: *const i8,
            scales: [I; 2],
        ) -> I {
            // SAFETY: the caller's: 32 activations.
            unsafe {
                let upper = x.add(16);
                if raised(BITS, TABLE, N) {
                    let second = shift_down(dot::<BITS, TABLE>(zero(), &w[4..], upper));
                    if SUB == 0 {
                        return add_i(dot::<BITS, TABLE>(sum, &w[..4], x), second);
                    }
                    let first = dot::<BITS, TABLE>(zero(), &w[..4], x);
                    return add_i(
                        sum,
                        if SUB == 16 {
                            add_i(mul_i(first, scales[0]), mul_i(second, scales[1]))
                        } else {
                            mul_i(add_i(first, second), scales[0])
                        },
                    );
                }
                match SUB {
                    0 => dot::<BITS, TABLE>(sum, w, x),
                    16 => {
                        let sum = dot_scaled::<BITS, TABLE>(sum, &w[..4], x, scales[0]);
                        dot_scaled::<BITS, TABLE>(sum, &w[4..], upper, scales[1])
                    }
                    _ => dot_scaled::<BITS, TABLE>(sum, w, x, scales[0]),
                }
            }
        }

        /// Whether upper nibbles stay where they are, which saves shifts unless there are many activation rows.
        const fn raised(bits: usize, table: bool, rows: usize) -> bool {
            RAISED && bits == 4 && !table && rows == 1
        }

        /// See `simd::blocks`.
        ///
        /// # Safety
        /// The instructions exist, the constants are those of `kind`, there are at most `N` activation rows and `P` panels,
        /// and the rows are as long as the matrix is wide.
        #[target_feature(enable = $features)]
        pub unsafe fn blocks<
            const BITS: usize,
            const TABLE: bool,
            const SUB: usize,
            const MIN: bool,
            const PLANES: usize,
            const N: usize,
            const P: usize,
        >(
            p: &Panels,
            kind: &Blocks,
            panels: Range<usize>,
            xs: &Rows<'_>,
            out: &mut [[f32; ROWS]],
        ) {
            let table = match &kind.table {
                // SAFETY: a table has 16 bytes.
                Some(table) => unsafe { load_table(table) },
                None => zero(),
            };
            // Where there are fewer, the last stands in for the missing: its lines are near by then.
            let mut starts = [std::ptr::null(); P];
            for (k, start) in starts.iter_mut().enumerate() {
                *start = p.panel((panels.start + k).min(panels.end - 1)).as_ptr();
            }
            let mut sums = [[[[zero_f(); 8]; N]; PARTS]; P];
            for b in 0..p.blocks {
                // SAFETY: block `b` lies in each panel: its integers, then, after those of all blocks, its scales.
                unsafe {
                    let (q, meta) = (b * kind.integers, p.blocks * kind.integers + b * kind.scales);
                    let mut blocks = [Block { q: starts[0], meta: starts[0] }; P];
                    for (block, start) in blocks.iter_mut().zip(&starts) {
                        *block = Block { q: start.add(q), meta: start.add(meta) };
                    }
                    if SUB == 0 {
                        for (block, sums) in blocks.iter().zip(&mut sums) {
                            small_block::<BITS, TABLE, MIN, PLANES, N, P>(p, kind, block, b, table, xs, sums);
                        }
                    } else {
                        super_blocks::<BITS, TABLE, SUB, MIN, PLANES, N, P>(p, kind, &blocks, b, table, xs, &mut sums);
                    }
                }
            }
            for (sums, out) in sums.iter().zip(out.chunks_mut(xs.count)).take(panels.len()) {
                for (part, sums) in sums.iter().enumerate() {
                    for (sums, out) in sums.iter().zip(out.iter_mut()) {
                        // SAFETY: LANES of the 16 results.
                        unsafe { store_f(out.as_mut_ptr().add(LANES * part), tree(sums)) };
                    }
                }
            }
        }

        /// Activation rows: with room for one or two there are so many.
        #[inline]
        fn count<const N: usize>(xs: &Rows<'_>) -> usize {
            if N <= 2 { N } else { xs.count }
        }

        /// Where the integers and the scales of a block are.
        #[derive(Clone, Copy)]
        struct Block {
            q: *const u8,
            meta: *const u8,
        }

        impl Block {
            /// The scales and minima of the rows.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn floats<const MIN: bool>(&self, kind: &Blocks, part: usize) -> (F, F) {
                // SAFETY: every block begins with these.
                unsafe {
                    let at = self.meta.add(2 * LANES * part);
                    let d = if kind.wide_scale { load_upper_half(at) } else { load_half(at) };
                    (d, if MIN { load_half(at.add(2 * ROWS)) } else { zero_f() })
                }
            }
        }

        /// One block of 32 weights, of all activation rows.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn small_block<
            const BITS: usize,
            const TABLE: bool,
            const MIN: bool,
            const PLANES: usize,
            const N: usize,
            const P: usize,
        >(
            p: &Panels,
            kind: &Blocks,
            block: &Block,
            b: usize,
            table: I,
            xs: &Rows<'_>,
            sums: &mut [[[F; 8]; N]; PARTS],
        ) {
            let (offset, count) = (splat_f(-kind.offset as f32), count::<N>(xs));
            // SAFETY: as in `blocks`.
            unsafe {
                if N <= FEW {
                    ask_for::<BITS>(block.q, ahead::<P>(p, kind, b * kind.integers));
                    prefetch(block.meta.wrapping_add(P * p.stride));
                }
                for (part, sums) in sums.iter_mut().enumerate() {
                    let (d, m) = block.floats::<MIN>(kind, part);
                    let w = unpack::<BITS, TABLE, N>(block.q.add(4 * LANES * part), table);
                    // All integers first: that many short chains are under way at once.
                    let mut integers = [[zero(); PLANES]; N];
                    for (t, integers) in integers.get_unchecked_mut(..count).iter_mut().enumerate() {
                        for (plane, integer) in xs.planes[..PLANES].iter().zip(integers) {
                            let x = plane.q.as_ptr().add((b * count + t) * 32);
                            *integer = dot_chunk::<BITS, TABLE, 0, N>(zero(), &w, x, [zero(); 2]);
                        }
                    }
                    for (t, sums) in sums.get_unchecked_mut(..count).iter_mut().enumerate() {
                        let at = b * count + t;
                        let (mut s, mut mins) = ([zero_f(); PLANES], [zero_f(); PLANES]);
                        for (i, plane) in xs.planes[..PLANES].iter().enumerate() {
                            s[i] = to_float(integers[t][i]);
                            mins[i] = splat_f(*plane.totals.get_unchecked(at));
                            if !MIN {
                                // Exact, as the integers are below 2^24.
                                s[i] = mul_add(mins[i], offset, s[i]);
                            }
                        }
                        add_term::<MIN, PLANES>(sums, b, &s, d, m, combine(&mins), *xs.scale.get_unchecked(at));
                    }
                }
            }
        }

        /// One block of 256 weights with integer scales, of several panels and all activation rows.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn super_blocks<
            const BITS: usize,
            const TABLE: bool,
            const SUB: usize,
            const MIN: bool,
            const PLANES: usize,
            const N: usize,
            const P: usize,
        >(
            p: &Panels,
            kind: &Blocks,
            blocks: &[Block; P],
            b: usize,
            table: I,
            xs: &Rows<'_>,
            sums: &mut [[[[F; 8]; N]; PARTS]; P],
        ) {
            let (subs, count) = (256 / SUB, count::<N>(xs));
            let mut integers = [[[[zero(); PLANES]; N]; PARTS]; P];
            // SAFETY: as in `blocks`; a block has eight chunks and `subs` scales for each row.
            unsafe {
                for c in 0..8 {
                    for (block, integers) in blocks.iter().zip(&mut integers) {
                        let q = block.q.add(c * kind.integers / 8);
                        if N <= FEW {
                            ask_for::<BITS>(q, ahead::<P>(p, kind, b * kind.integers + c * kind.integers / 8));
                        }
                        for (part, integers) in integers.iter_mut().enumerate() {
                            let w = unpack::<BITS, TABLE, N>(q.add(4 * LANES * part), table);
                            let scales = block.meta.add(if MIN { 4 } else { 2 } * ROWS + LANES * part);
                            let of = 32 / SUB;
                            let scale = [of * c, of * c + of - 1].map(|j| load_scale(scales.add(j * ROWS)));
                            for (t, integers) in integers.get_unchecked_mut(..count).iter_mut().enumerate() {
                                for (plane, integer) in xs.planes[..PLANES].iter().zip(integers) {
                                    let x = plane.q.as_ptr().add((b * count + t) * 256 + c * 32);
                                    *integer = dot_chunk::<BITS, TABLE, SUB, N>(*integer, &w, x, scale);
                                }
                            }
                        }
                    }
                }
                for ((block, integers), sums) in blocks.iter().zip(&integers).zip(sums) {
                    if N <= FEW {
                        for line in 0..kind.scales.div_ceil(64) {
                            prefetch(block.meta.wrapping_add(P * p.stride + 64 * line));
                        }
                    }
                    for ((part, integers), sums) in integers.iter().enumerate().zip(sums) {
                        // Sums of the activations times the minima, or times the scales, for what the integers are off by.
                        let mut totals = [[zero(); PLANES]; N];
                        for pair in 0..subs / 2 {
                            let by = if MIN {
                                load_pairs(block.meta.add((4 + subs + 2 * pair) * ROWS + 2 * LANES * part))
                            } else {
                                let at = block.meta.add((2 + 2 * pair) * ROWS + LANES * part);
                                load_both(at, at.add(ROWS))
                            };
                            for (t, totals) in totals.get_unchecked_mut(..count).iter_mut().enumerate() {
                                for (plane, total) in xs.planes[..PLANES].iter().zip(totals) {
                                    let x = plane.sums[SUB / 32].as_ptr().add((b * count + t) * subs + 2 * pair);
                                    *total = dot_pairs(*total, by, splat(x.cast::<i32>().read_unaligned()));
                                }
                            }
                        }
                        let (d, m) = block.floats::<MIN>(kind, part);
                        for (t, sums) in sums.get_unchecked_mut(..count).iter_mut().enumerate() {
                            let (mut s, mut mins) = ([zero_f(); PLANES], [zero_f(); PLANES]);
                            for i in 0..PLANES {
                                let (integer, total) = (integers[t][i], totals[t][i]);
                                if MIN {
                                    (s[i], mins[i]) = (to_float(integer), to_float(total));
                                } else {
                                    s[i] = to_float(add_i(integer, mul_i(total, splat(-kind.offset))));
                                }
                            }
                            let scale = *xs.scale.get_unchecked(b * count + t);
                            add_term::<MIN, PLANES>(sums, b, &s, d, m, combine(&mins), scale);
                        }
                    }
                }
            }
        }

        /// Asks for the lines of a chunk ahead of one. Few activation rows are bound by memory: evenly spread requests
        /// keep as many lines under way as the core can.
        #[inline]
        #[target_feature(enable = $features)]
        fn ask_for<const BITS: usize>(q: *const u8, ahead: usize) {
            for line in 0..BITS {
                prefetch(q.wrapping_add(ahead + 64 * line));
            }
        }

        /// How far ahead of byte `at` of a panel's integers that is: behind the last it is the beginning of the panel that
        /// comes after those in turn.
        #[inline]
        #[target_feature(enable = $features)]
        fn ahead<const P: usize>(p: &Panels, kind: &Blocks, at: usize) -> usize {
            let end = p.blocks * kind.integers;
            if at + AHEAD < end { AHEAD } else { AHEAD + P * p.stride - end }
        }

        /// The planes' sums as one number: `256 * high + low`.
        #[inline]
        #[target_feature(enable = $features)]
        fn combine(planes: &[F]) -> F {
            if planes.len() == 2 { add(mul(splat_f(256.0), planes[0]), planes[1]) } else { planes[0] }
        }

        /// Adds a block's term `scale * (d * s + m * mins)` to its lane of S8.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_term<const MIN: bool, const PLANES: usize>(
            sums: &mut [F; 8],
            b: usize,
            s: &[F; PLANES],
            d: F,
            m: F,
            mins: F,
            scale: f32,
        ) {
            let mut w = mul(d, combine(s));
            if MIN {
                w = add(w, mul(m, mins));
            }
            let lane = &mut sums[b % 8];
            *lane = add(*lane, mul(splat_f(scale), w));
        }

        /// The tree of S8 over eight vectors.
        #[inline]
        #[target_feature(enable = $features)]
        pub(super) fn tree(l: &[F; 8]) -> F {
            let a = [add(l[0], l[4]), add(l[1], l[5]), add(l[2], l[6]), add(l[3], l[7])];
            add(add(a[0], a[2]), add(a[1], a[3]))
        }

        /// See `simd::floats`. Products of 16-bit numbers are exact, so there fusing them changes nothing.
        ///
        /// # Safety
        /// The instructions exist, the constants are those of the panels, and the rows are as long as the matrix is
        /// wide.
        #[target_feature(enable = $features)]
        pub unsafe fn floats<const BYTES: usize, const HALF: bool>(
            p: &Panels,
            panel: usize,
            xs: &[&[f32]],
            out: &mut [[f32; ROWS]],
        ) {
            let bytes = p.panel(panel);
            for part in 0..PARTS {
                let mut sums = [[zero_f(); 8]; TOKENS];
                let mut inner = [[zero_f(); 8]; TOKENS];
                for b in 0..p.blocks {
                    for lane in 0..8 {
                        // SAFETY: a panel has 32 columns of 16 numbers per block.
                        let w = [0, 8, 16, 24].map(|i| unsafe {
                            let at = bytes.as_ptr().add(((b * 32 + i + lane) * ROWS + LANES * part) * BYTES);
                            match (BYTES, HALF) {
                                (4, _) => load_f(at),
                                (_, true) => load_half(at),
                                _ => load_upper_half(at),
                            }
                        });
                        for (x, inner) in xs.iter().zip(&mut inner) {
                            let mut sum = zero_f();
                            for (i, w) in w.iter().enumerate() {
                                // SAFETY: rows have 32 numbers per block.
                                let x = splat_f(unsafe { *x.get_unchecked(b * 32 + 8 * i + lane) });
                                sum = if BYTES == 2 { mul_add(*w, x, sum) } else { add(sum, mul(*w, x)) };
                            }
                            inner[lane] = sum;
                        }
                    }
                    for (sums, inner) in sums.iter_mut().zip(&inner).take(xs.len()) {
                        sums[b % 8] = add(sums[b % 8], tree(inner));
                    }
                }
                for (sums, out) in sums.iter().zip(out.iter_mut()).take(xs.len()) {
                    // SAFETY: LANES of the 16 results.
                    unsafe { store_f(out.as_mut_ptr().add(LANES * part), tree(sums)) };
                }
            }
        }

        /// `Q` sums of products, S8 over the elements from `first` to `end`, 32 at most: of the vectors `of(i)` with the numbers `by(k, i)`. The products are exact
        /// (13 by 11 bits), so fusing them with the additions changes nothing.
        #[inline]
        #[target_feature(enable = $features)]
        fn block<const Q: usize>(
            (first, end): (usize, usize),
            of: impl Fn(usize) -> F,
            by: impl Fn(usize, usize) -> f32,
        ) -> [F; Q] {
            tree_of(|l| {
                let mut sums = [zero_f(); Q];
                let mut add = |i: usize| {
                    let v = of(i);
                    for (k, sum) in sums.iter_mut().enumerate() {
                        *sum = mul_add(splat_f(by(k, i)), v, *sum);
                    }
                };
                if end == first + 32 {
                    [0, 8, 16, 24].into_iter().for_each(|i| add(first + i + l));
                } else {
                    (first + l..end).step_by(8).for_each(add);
                }
                sums
            })
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn add_each<const Q: usize>(a: [F; Q], b: [F; Q]) -> [F; Q] {
            core::array::from_fn(|k| add(a[k], b[k]))
        }

        /// The tree of S8, in an order of lanes that leaves few sums open.
        #[inline]
        #[target_feature(enable = $features)]
        fn tree_of<const Q: usize>(lane: impl Fn(usize) -> [F; Q]) -> [F; Q] {
            let even = add_each(add_each(lane(0), lane(4)), add_each(lane(2), lane(6)));
            let odd = add_each(add_each(lane(1), lane(5)), add_each(lane(3), lane(7)));
            add_each(even, odd)
        }

        /// Scores of `Q` heads that share their keys, over whole tiles of 16 positions: products of the heads' queries
        /// and the keys, times `scale`. The scores of a head begin `room` behind those of the one before.
        ///
        /// # Safety
        /// The instructions exist, `q` holds `Q` heads, `scores` has room for `tiles` of each, and `k` points to the
        /// keys in so many tiles, `stride` apart.
        #[target_feature(enable = $features)]
        pub unsafe fn scores<const Q: usize>(
            q: &[f32],
            scale: f32,
            (k, stride, tiles): (*const u16, usize, usize),
            (scores, room): (&mut [f32], usize),
        ) {
            let n = q.len() / Q;
            for tile in 0..tiles {
                for part in 0..PARTS {
                    // SAFETY: element `i` of the keys of a tile has 16 numbers.
                    let key = |i| unsafe { load_half(k.add(tile * stride + i * ROWS + LANES * part).cast()) };
                    // SAFETY: `n` numbers for each head.
                    let by = |h: usize, i: usize| unsafe { *q.get_unchecked(h * n + i) };
                    let mut outer = [[zero_f(); Q]; 8];
                    for first in (0..n).step_by(32) {
                        let outer = &mut outer[first / 32 % 8];
                        *outer = add_each(*outer, block((first, n.min(first + 32)), key, by));
                    }
                    for (h, sum) in tree_of(|l| outer[l]).into_iter().enumerate() {
                        let at = h * room + tile * ROWS + LANES * part;
                        // SAFETY: a part of the tile's scores.
                        unsafe { store_f(scores.as_mut_ptr().add(at), mul(sum, splat_f(scale))) };
                    }
                }
            }
        }

        /// Vectors of a position's values that are taken side by side, so that all of a line of the cache is used while it is near.
        const BESIDE: usize = 8;

        /// Values weighted by `count` weights of each of `Q` heads from position `start` on, a multiple of 32; a head's begin `room` apart.
        ///
        /// # Safety
        /// The instructions exist, `weights` has so many, and `v` points to `out.len() / Q` numbers, a multiple of 16,
        /// per position, `stride` apart.
        #[target_feature(enable = $features)]
        pub unsafe fn weighted<const Q: usize>(
            (weights, room, start, count): (&[f32], usize, usize, usize),
            v: *const u16,
            stride: usize,
            out: &mut [f32],
        ) {
            let n = out.len() / Q;
            for d in (0..n).step_by(LANES * BESIDE) {
                let beside = BESIDE.min((n - d) / LANES);
                let mut outer = [[[zero_f(); Q]; 8]; BESIDE];
                for first in (0..count).step_by(32) {
                    for (w, outer) in outer.iter_mut().enumerate().take(beside) {
                        // SAFETY: position `i` is one of `count`.
                        let value = |i| unsafe { load_half(v.add(i * stride + d + w * LANES).cast()) };
                        // SAFETY: as above.
                        let by = |h: usize, i: usize| unsafe { *weights.get_unchecked(h * room + i) };
                        let outer = &mut outer[(start + first) / 32 % 8];
                        *outer = add_each(*outer, block((first, count.min(first + 32)), value, by));
                    }
                }
                for (w, outer) in outer.iter().enumerate().take(beside) {
                    for (h, sum) in tree_of(|l| outer[l]).into_iter().enumerate() {
                        // SAFETY: LANES results of a head.
                        unsafe { store_f(out.as_mut_ptr().add(h * n + d + w * LANES), sum) };
                    }
                }
            }
        }
    };
}

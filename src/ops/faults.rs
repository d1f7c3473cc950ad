//! Faults for tests of `samebits verify`: `SAMEBITS_FAULT=name` changes the shaders before they are compiled.
//!
//! Only in builds with the feature `faults`, which nothing but the tests turns on.

/// A fault: its name, what is replaced, and by what. Kernels that do the same in another text have an entry of their own.
type Fault = (&'static str, &'static str, &'static str);

const FAULTS: &[Fault] = &[
    // A driver that fuses a multiplication with the addition behind it.
    ("fused", "return add(add(mul(p, mul(r, r)), r), 1.0);", "return fma(p, mul(r, r), r) + 1.0;"),
    // A reduction in another order.
    (
        "order",
        "return add(add(add(a.x, b.x), add(a.z, b.z)), add(add(a.y, b.y), add(a.w, b.w)));",
        "return add(add(add(a.x, a.y), add(a.z, a.w)), add(add(b.x, b.y), add(b.z, b.w)));",
    ),
    // The last column of the scores is read before it is written.
    ("uninitialised", "scores[s_at + p] = t;", "if p != 3u { scores[s_at + p] = t; }"),
    ("uninitialised", "    weights[p] = s;", "    if p != 3u { weights[p] = s; }"),
    // Query heads read the keys of another group.
    ("gqa", "head / (params.heads / params.kv_heads) * params.head_dim", "(head % params.kv_heads) * params.head_dim"),
    ("gqa", "head / (params.heads / params.kv_heads) * HEAD_DIM", "(head % params.kv_heads) * HEAD_DIM"),
    ("gqa", "head / (params.heads / params.kv_heads) * QUADS", "(head % params.kv_heads) * QUADS"),
    // RoPE pairs halves instead of neighbours; where a thread has one pair only, it takes them the wrong way round.
    ("rope", "params.neox != 0u", "params.neox == 0u"),
    (
        "rope",
        "vec2(settle(sub(mul(a, c), mul(b, s))), settle(add(mul(a, s), mul(b, c))))",
        "vec2(settle(sub(mul(b, c), mul(a, s))), settle(add(mul(b, s), mul(a, c))))",
    ),
    // RMSNorm forgets epsilon.
    (
        "eps",
        "rsqrt(add(mul(sum_of_row(row), params.inverse_width), params.eps))",
        "rsqrt(mul(sum_of_row(row), params.inverse_width))",
    ),
    ("eps", "rsqrt(add(mul(total, params.inverse_width), params.eps))", "rsqrt(mul(total, params.inverse_width))"),
    // A matrix is read by columns.
    ("transposed", "let block = row * params.blocks + b;", "let block = b * params.rows + row;"),
    // The scales of one format only, as FXC read them.
    ("q3_k", "block * 6u + 4u + (chunk & 1u)", "block * 6u + 4u + (chunk & 0u)"),
    // On matrix units, half of the tokens take the scale of another.
    ("units", "products[below], row, token + UNIT / 2u", "products[below], row, token"),
    // A branch takes the norm of the products behind it.
    ("branch", "norm4[8u * CHUNKS + quad]", "norm4[quad]"),
    // All slots take the first slot's expert.
    ("expert", "u32(routes[side])", "u32(routes[0])"),
    // The results of all experts weigh as that of the first.
    ("expert_sum", "weighed(routes[SECTIONS + slot], y)", "weighed(routes[SECTIONS], y)"),
    // All tiles take the first expert.
    ("expert_tiles", "return tile_word(tile, 0u) * params.expert_rows + n;", "return n;"),
    // Keys take the norm of queries.
    ("heads", "norms[select(0u, params.head_dim, is_key) + n]", "norms[n]"),
    // The second of sibling products begins a row too early.
    (
        "siblings",
        "out2[token() * params.third + n - params.second] = y;",
        "out2[token() * params.third + (n + params.third - params.second - 1u) % params.third] = y;",
    ),
    // Tensors: running sums forget their first term; a block of a contraction is added twice.
    ("scan", "for (var i = 0u; i < params.length; i++) {", "for (var i = 1u; i < params.length; i++) {"),
    ("contract", "return plus(even, odd);", "return plus(even, even);"),
    // Of two prepared rows, both take the first.
    ("two_rows", "return section_product(slot * ROWS + local);", "return section_product(slot * ROWS);"),
    // Of rows that were quantised before, all take the first.
    (
        "given_rows",
        "return min(first_row + row, state.rows - 1u) * params.x_items;",
        "return first_row * params.x_items;",
    ),
    // Of four quantised rows, the third takes the second.
    ("few_rows", "lane_sums[at + 2u * SLOTS8] = sum.z;", "lane_sums[at + 2u * SLOTS8] = sum.y;"),
    // In a tile of blocks, odd chunks take the scales of the ones before.
    ("few_blocks", "w_sub[(slot * 8u + chunk) * 8u + lane]);", "w_sub[(slot * 8u + (chunk & 6u)) * 8u + lane]);"),
    // Kernels that no device takes: too many threads.
    (
        "refused",
        "@workgroup_size(THREADS)\nfn main(@builtin(workgroup_id) workgroup",
        "@workgroup_size(1048576)\nfn main(@builtin(workgroup_id) workgroup",
    ),
];

/// The source with the fault that the environment names.
///
/// # Panics
/// On an unknown name: a test that plants nothing would prove nothing.
pub fn plant(source: &str) -> String {
    let Ok(name) = std::env::var("SAMEBITS_FAULT") else { return source.to_owned() };
    let texts: Vec<_> = FAULTS.iter().filter(|f| f.0 == name).collect();
    assert!(!texts.is_empty(), "unknown fault {name}");
    texts.iter().fold(source.to_owned(), |source, (_, from, to)| source.replace(from, to))
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    /// A fault whose text is in no shader any more would plant nothing.
    #[test]
    fn each_fault_is_in_a_shader() {
        let variants = crate::validate::variants();
        for (name, from, _) in FAULTS {
            assert!(variants.iter().any(|v| v.source.contains(from)), "fault {name}: no shader contains `{from}`");
        }
    }
}

//! The table of shaders, weight formats and parts, and how a module is put together from them. Also compiled into the build
//! script, which validates every variant and writes down what naga says of it.

use std::fmt;

/// The texts of `wgsl/lib`.
macro_rules! part {
    ($name:literal) => {
        include_str!(concat!("../../wgsl/lib/", $name, ".wgsl"))
    };
}
/// The WGSL of a kernel.
#[derive(Debug)]
pub struct Shader {
    /// The kernel's name.
    pub name: &'static str,
    /// Its file.
    pub file: &'static str,
    /// The text of the file. A line `// needs:` lists the parts of `wgsl/lib` that come before it, and what weights it reads.
    pub wgsl: &'static str,
    /// The parts that kernels of the same file do not share.
    pub own: &'static [&'static str],
}

/// A weight format's text: how its bytes become numbers.
#[derive(Debug)]
pub struct Weights {
    /// The format's name.
    pub name: &'static str,
    /// How it is read.
    pub kind: Kind,
    wgsl: &'static str,
    /// How kernels for matrix units read it; nothing where they do not (`wgsl/lib/units.wgsl`).
    pieces: &'static [&'static str],
}

/// How a weight format is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Plain numbers: the format has `load` and `quad`.
    Plain,
    /// Blocks of integers with scales: it has `scales` and `unpack`.
    Block,
}

/// A part of `wgsl/lib` by the name that a `// needs:` line gives it: the texts it stands for with plain weights, and with
/// blocks or none.
struct Part {
    name: &'static str,
    plain: &'static [&'static str],
    block: &'static [&'static str],
}

/// What a kernel's `// needs:` line says.
#[derive(Default)]
pub struct Needs {
    /// The kinds of weights that there is a variant for.
    pub kinds: &'static [Kind],
    /// Whether there are variants only for formats that are read in pieces.
    pieces: bool,
    /// Whether it uses matrix units.
    pub matrix_units: bool,
    parts: Vec<&'static Part>,
}

/// A word of a `// needs:` line that names nothing.
#[derive(Debug)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` in the line `// needs:` is no part of wgsl/lib; there are", self.0)?;
        ["any format", "block format", "plain format", "format in pieces", "matrix units"]
            .into_iter()
            .chain(PARTS.iter().map(|p| p.name))
            .try_for_each(|name| write!(f, " `{name}`"))
    }
}

/// What a kernel's float operations are made of. The bits are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Bit operations keep results from being fused and reordered (`wgsl/lib/portable.wgsl`): holds on every device.
    #[default]
    Portable,
    /// Fused multiply-adds and the device's own conversions (`wgsl/lib/native.wgsl`): for compilers that leave them alone.
    Native,
}

impl Arithmetic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Portable, Self::Native];

    fn wgsl(self) -> &'static str {
        match self {
            Self::Portable => part!("portable"),
            Self::Native => part!("native"),
        }
    }
}

impl Shader {
    /// What the `// needs:` line lists.
    ///
    /// # Errors
    /// At a word that names nothing. The build script looks at every shader of the table, so those have none.
    pub fn needs(&self) -> Result<Needs, Unknown> {
        let line = self.wgsl.lines().find_map(|l| l.strip_prefix("// needs:")).unwrap_or_default();
        let mut needs = Needs::default();
        let words = line.split(',').map(str::trim).filter(|w| !w.is_empty());
        for word in words.chain(self.own.iter().copied()) {
            match word {
                "any format" => needs.kinds = &[Kind::Plain, Kind::Block],
                "block format" => needs.kinds = &[Kind::Block],
                "plain format" => needs.kinds = &[Kind::Plain],
                "format in pieces" => (needs.kinds, needs.pieces) = (&[Kind::Block], true),
                "matrix units" => needs.matrix_units = true,
                name => {
                    needs.parts.push(PARTS.iter().find(|p| p.name == name).ok_or_else(|| Unknown(name.to_owned()))?)
                }
            }
        }
        Ok(needs)
    }

    /// The formats that there is a variant for; none for kernels that read no weights.
    pub fn formats(&self) -> Vec<&'static Weights> {
        let needs = self.needs().unwrap_or_default();
        let has = |f: &&Weights| needs.kinds.contains(&f.kind) && (!needs.pieces || !f.pieces.is_empty());
        FORMATS.iter().filter(has).collect()
    }

    /// The whole module; `format` for kernels that read weights.
    pub fn source(&self, format: Option<&Weights>, arithmetic: Arithmetic) -> String {
        let needs = self.needs().unwrap_or_default();
        let mut texts = Vec::new();
        if needs.matrix_units {
            texts.push("enable f16;\nenable wgpu_cooperative_matrix;");
        }
        texts.extend([arithmetic.wgsl(), part!("numerics")]);
        if let Some(format) = format {
            texts.extend([part!("weights"), format.wgsl]);
            texts.extend(format.pieces.iter().filter(|_| needs.pieces));
        }
        let plain = format.is_some_and(|f| f.kind == Kind::Plain);
        texts.extend(needs.parts.iter().flat_map(|p| if plain { p.plain } else { p.block }));
        texts.push(self.wgsl);
        texts.join("\n")
    }

    /// What naga and a device must allow for the module: nothing but the portable minimum, unless it uses matrix units or
    /// unpacks halves natively.
    pub fn capabilities(&self, arithmetic: Arithmetic) -> naga::valid::Capabilities {
        use naga::valid::Capabilities as C;
        let units = self.needs().is_ok_and(|n| n.matrix_units);
        let units =
            if units { C::SHADER_FLOAT16 | C::SHADER_FLOAT16_IN_FLOAT32 | C::COOPERATIVE_MATRIX } else { C::empty() };
        let halves = if arithmetic == Arithmetic::Native { C::SHADER_FLOAT16_IN_FLOAT32 } else { C::empty() };
        units | halves
    }
}

/// The format with this name.
pub fn weights(name: &str) -> Option<&'static Weights> {
    FORMATS.iter().find(|f| f.name == name)
}

macro_rules! shaders {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $file:literal $(with $own:literal)*;)*) => {
        $(
            $(#[$doc])*
            pub static $id: Shader = Shader {
                name: $name,
                file: concat!("wgsl/", $file),
                wgsl: include_str!(concat!("../../wgsl/", $file)),
                own: &[$($own),*],
            };
        )*
        /// Everything that this program runs on a device.
        pub static SHADERS: &[&Shader] = &[$(&$id),*];
    };
}

shaders! {
    /// The residual.
    ADD = "add", "add.wgsl";
    /// The largest of a row.
    ARGMAX = "argmax", "argmax.wgsl";
    /// Attention over the cache.
    ATTENTION = "attention", "attention.wgsl";
    /// A token drawn from logits.
    DRAW = "draw", "draw.wgsl";
    /// Rows of a matrix by token.
    EMBEDDING = "embedding", "embedding.wgsl";
    /// The rows whose logits are wanted.
    GATHER = "gather", "gather.wgsl";
    /// Keys and values to the cache.
    KV_STORE = "kv_store", "kv_store.wgsl";
    /// The matrix product.
    MATMUL = "matmul", "matmul.wgsl";
    /// Activations to integers.
    QUANTIZE_ACTIVATIONS = "quantize_activations", "quantize_activations.wgsl";
    /// Root mean square norm.
    RMS_NORM = "rms_norm", "rms_norm.wgsl";
    /// Rotary position embedding.
    ROPE = "rope", "rope.wgsl";
    /// The gated activation with GELU.
    GELU_MUL = "gelu_mul", "gelu_mul.wgsl";
    /// The gated activation.
    SILU_MUL = "silu_mul", "silu_mul.wgsl";
    /// A factor for all elements.
    SCALE = "scale", "scale.wgsl";
    /// A bound for all elements.
    SOFT_CAP = "soft_cap", "soft_cap.wgsl";
    /// The gate of gpt-oss.
    CLAMPED_GATE = "clamped_gate", "clamped_gate.wgsl";
    /// A gate for whole rows.
    ROW_GATE = "row_gate", "row_gate.wgsl";
    /// Columns of heads.
    COLUMNS = "columns", "columns.wgsl";
    /// The choice of experts.
    ROUTE = "route", "route.wgsl";
    /// Products with the matrices of chosen experts.
    EXPERT_MATMUL = "expert_matmul", "expert_matmul.wgsl";
    /// The results of chosen experts, added up.
    COMBINE = "combine", "combine.wgsl";
    /// Softmax of rows.
    SOFTMAX = "softmax", "softmax.wgsl";
    /// One row: norm, queries, keys and values, RoPE, cache.
    QKV = "qkv", "fused/qkv.wgsl" with "any format" with "matvec" with "stream";
    /// The same of a row that a branch joins.
    QKV_JOINED = "qkv_joined", "fused/qkv.wgsl" with "any format" with "matvec" with "joined";
    /// One row: norms of heads, RoPE, cache.
    HEADS = "heads", "fused/heads.wgsl";
    /// One row: a branch added to the residual, behind a norm or a scale.
    JOIN = "join", "fused/join.wgsl";
    /// One row: attention over a short cache.
    ATTEND = "attend", "fused/attend.wgsl";
    /// One row: attention over a long cache, the scores.
    ATTEND_SCORES = "attend_scores", "fused/attend_scores.wgsl";
    /// One row: attention over a long cache, the values.
    ATTEND_VALUES = "attend_values", "fused/attend_values.wgsl";
    /// One row: a product added to the residual.
    RESIDUAL = "residual", "fused/residual.wgsl" with "any format" with "matvec" with "stream";
    /// One row: norm, gate, up and activation.
    GATE_UP = "gate_up", "fused/gate_up.wgsl" with "any format" with "matvec" with "stream";
    /// The same of a row that a branch joins.
    GATE_UP_JOINED = "gate_up_joined", "fused/gate_up.wgsl" with "any format" with "matvec" with "joined";
    /// One row: norm, gate, up and activation of the chosen experts.
    EXPERT_GATE = "expert_gate", "fused/expert_gate.wgsl";
    /// One row: a product with the matrices of the chosen experts, behind a norm or not.
    EXPERT_ROWS = "expert_rows", "fused/expert_rows.wgsl";
    /// One row: a product with the matrices of the chosen experts, the results weighted and added up.
    EXPERT_SUM = "expert_sum", "fused/expert_sum.wgsl";
    /// One row: a product behind a norm or not.
    PRODUCTS = "products", "fused/products.wgsl" with "any format" with "matvec" with "stream";
    /// One row: two or three products behind a norm or not.
    SIBLINGS = "siblings", "fused/siblings.wgsl" with "any format" with "matvec" with "stream";
    /// The same of a row that a branch joins.
    SIBLINGS_JOINED = "siblings_joined", "fused/siblings.wgsl" with "any format" with "matvec" with "joined";
    /// A few rows: queries, keys and values, RoPE, cache.
    FEW_QKV = "few_qkv", "fused/qkv.wgsl" with "block format" with "few";
    /// A few rows: a product added to the residual.
    FEW_RESIDUAL = "few_residual", "fused/residual.wgsl" with "block format" with "few";
    /// A few rows: gate, up and activation.
    FEW_GATE_UP = "few_gate_up", "fused/gate_up.wgsl" with "block format" with "few";
    /// A few rows: a product.
    FEW_PRODUCTS = "few_products", "fused/products.wgsl" with "block format" with "few";
    /// A few rows: two or three products.
    FEW_SIBLINGS = "few_siblings", "fused/siblings.wgsl" with "block format" with "few";
    /// A few rows, spread as a single one: queries, keys and values, RoPE, cache.
    GIVEN_QKV = "given_qkv", "fused/qkv.wgsl" with "block format" with "given";
    /// A few rows, spread as a single one: a product added to the residual.
    GIVEN_RESIDUAL = "given_residual", "fused/residual.wgsl" with "block format" with "given";
    /// A few rows, spread as a single one: gate, up and activation.
    GIVEN_GATE_UP = "given_gate_up", "fused/gate_up.wgsl" with "block format" with "given";
    /// A few rows, spread as a single one: a product.
    GIVEN_PRODUCTS = "given_products", "fused/products.wgsl" with "block format" with "given";
    /// A few rows, spread as a single one: two or three products.
    GIVEN_SIBLINGS = "given_siblings", "fused/siblings.wgsl" with "block format" with "given";
    /// One row in another layout.
    PLACE = "place", "fused/place.wgsl";
    /// Many rows: the product with weights in blocks.
    TILED_MATMUL = "tiled_matmul", "tiled/matmul.wgsl" with "product" with "in_order";
    /// Many rows: the product with plain weights.
    TILED_FLOATS = "tiled_floats", "tiled/floats.wgsl" with "product" with "in_order";
    /// Many rows: which of them chose each expert.
    EXPERT_TILES = "expert_tiles", "tiled/expert_tiles.wgsl";
    /// Many rows: the product with the matrices of the chosen experts, in blocks.
    TILED_EXPERTS = "tiled_experts", "tiled/matmul.wgsl" with "experts" with "by_expert";
    /// Many rows: the product with the matrices of the chosen experts, in plain numbers.
    TILED_EXPERT_FLOATS = "tiled_expert_floats", "tiled/floats.wgsl" with "experts" with "by_expert";
    /// Many rows: attention.
    TILED_ATTENTION = "tiled_attention", "tiled/attention.wgsl";
    /// Many rows: what comes before a quantisation, and that.
    TILED_QUANTIZE = "tiled_quantize", "tiled/quantize.wgsl";
    /// Some or many rows: the product on matrix units of 16 x 16.
    TILED_UNITS = "tiled_units", "tiled/units.wgsl";
    /// Some or many rows: the product on matrix units of 8 x 8.
    TILED_UNITS8 = "tiled_units8", "tiled/units8.wgsl";
    /// Some rows: the sum of lanes that several workgroups added up.
    TILED_LANES = "tiled_lanes", "tiled/lanes.wgsl";
    /// Tensors: a function of each element.
    TENSOR_MAP = "tensor_map", "tensor/map.wgsl";
    /// Tensors: sums and extremes over some axes.
    TENSOR_REDUCE = "tensor_reduce", "tensor/reduce.wgsl";
    /// Tensors: products, summed over the axes that both operands have.
    TENSOR_CONTRACT = "tensor_contract", "tensor/contract.wgsl";
    /// Tensors: elements at indices along an axis.
    TENSOR_GATHER = "tensor_gather", "tensor/gather.wgsl";
    /// Tensors: running sums.
    TENSOR_SCAN = "tensor_scan", "tensor/scan.wgsl";
    /// Tensors: the places of the largest elements.
    TENSOR_RANK = "tensor_rank", "tensor/rank.wgsl";
    /// How fast a device reads.
    BANDWIDTH = "bandwidth", "bandwidth.wgsl";
    /// The primitives that every kernel is made of.
    SELFTEST = "selftest", "selftest.wgsl";
}

const fn format(name: &'static str, kind: Kind, wgsl: &'static str) -> Weights {
    Weights { name, kind, wgsl, pieces: &[] }
}

const fn in_pieces(name: &'static str, wgsl: &'static str, pieces: &'static [&'static str]) -> Weights {
    Weights { name, kind: Kind::Block, wgsl, pieces }
}

/// Every weight format.
pub static FORMATS: &[Weights] = &[
    format("F32", Kind::Plain, part!("f32")),
    format("F16", Kind::Plain, part!("f16")),
    format("BF16", Kind::Plain, part!("bf16")),
    format("Q4_0", Kind::Block, part!("q4_0")),
    format("Q4_1", Kind::Block, part!("q4_1")),
    format("Q5_0", Kind::Block, part!("q5_0")),
    format("Q5_1", Kind::Block, part!("q5_1")),
    format("Q8_0", Kind::Block, part!("q8_0")),
    format("Q2_K", Kind::Block, part!("q2_k")),
    in_pieces("Q3_K", part!("q3_k"), &[part!("q3_k_pieces")]),
    in_pieces("Q4_K", part!("q4_k"), &[part!("six_bits"), part!("q4_k_pieces")]),
    in_pieces("Q5_K", part!("q5_k"), &[part!("six_bits"), part!("q5_k_pieces")]),
    in_pieces("Q6_K", part!("q6_k"), &[part!("q6_k_pieces")]),
    format("IQ4_NL", Kind::Block, part!("iq4_nl")),
    format("IQ4_XS", Kind::Block, part!("iq4_xs")),
    format("MXFP4", Kind::Block, part!("mxfp4")),
];

/// A part with one text.
macro_rules! one {
    ($name:literal) => {
        Part { name: $name, plain: &[part!($name)], block: &[part!($name)] }
    };
}

/// What a matrix product reads, with its parameters.
macro_rules! product {
    ($name:literal) => {
        Part { name: $name, plain: &[part!($name), part!("operands")], block: &[part!($name), part!("operands")] }
    };
}

static PARTS: &[Part] = &[
    one!("layout"),
    one!("order"),
    product!("product"),
    product!("experts"),
    one!("in_order"),
    one!("by_expert"),
    one!("lanes"),
    one!("pending"),
    one!("plain"),
    one!("cache"),
    one!("halves"),
    one!("heads"),
    one!("values"),
    one!("items"),
    one!("units"),
    one!("stream"),
    one!("joined"),
    one!("slots"),
    one!("combined"),
    one!("rows"),
    one!("gate"),
    one!("dots"),
    one!("quads"),
    one!("lanewise"),
    one!("strided"),
    one!("blocks"),
    Part { name: "term", plain: &[part!("term_float")], block: &[part!("dots"), part!("term_block")] },
    Part { name: "weight", plain: &[part!("weight_float")], block: &[part!("weight_block")] },
    Part {
        name: "matvec",
        plain: &[
            part!("items"),
            part!("layout"),
            part!("call"),
            part!("plain"),
            part!("matvec_float"),
            part!("prepared"),
            part!("matvec"),
        ],
        block: &[
            part!("items"),
            part!("layout"),
            part!("call"),
            part!("dots"),
            part!("matvec_block"),
            part!("prepared_block"),
            part!("prepared"),
            part!("matvec"),
        ],
    },
    Part {
        name: "given",
        plain: &[],
        block: &[part!("layout"), part!("call"), part!("dots"), part!("matvec_block"), part!("given"), part!("matvec")],
    },
    Part {
        name: "few",
        plain: &[],
        block: &[part!("call"), part!("dots"), part!("quads"), part!("lanewise"), part!("quad"), part!("few")],
    },
];

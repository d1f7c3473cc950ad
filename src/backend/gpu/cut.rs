//! A plan cut into pieces, for single tokens: the steps that a fused kernel computes at once.
//!
//! What belongs to a piece is found by the data flow alone: a step joins only if what it would no longer leave behind is read by
//! nobody else. A step that belongs to no larger piece is a piece by itself, and runs by its plain kernel.

use std::collections::HashMap;
use std::ops::Range;

use super::piece::{
    AttentionSteps, Before, End, Experts, Gate, HeadSteps, JoinSteps, Norm, Piece, Product, Work, shapes,
};
use crate::ops;
use crate::ops::columns::Slice;
use crate::plan::{BufferId, Op, Plan, StepName};

/// Whether there are kernels for some work, or why not.
pub(super) type Takes<'a> = &'a dyn Fn(&Work) -> Result<(), String>;

/// The pieces of a plan, in order.
pub(super) fn pieces(plan: &Plan, takes: Takes<'_>) -> Vec<Piece> {
    let mut cutter = Cutter { plan, takes, sources: Vec::new(), made: Vec::new(), folded: Vec::new() };
    cutter.sources = cutter.sources();
    cutter.made = cutter.made();
    cutter.folded = cutter.folded();
    let mut pieces: Vec<Piece> = Vec::new();
    while let Some(piece) = cutter.next(pieces.last().map_or(0, |p| p.steps.end)) {
        pieces.push(piece);
    }
    pieces
}

/// The steps that no fused kernel takes, by their parts: `10 × attn_q.rope, …`; `None` if there are none.
pub(super) fn unfused(plan: &Plan, pieces: &[Piece]) -> Option<String> {
    let mut parts: Vec<(&str, usize)> = Vec::new();
    for piece in pieces.iter().filter(|p| matches!(p.work, Work::Plain)) {
        let part = plan.steps[piece.steps.start].name.part.as_str();
        match parts.iter_mut().find(|p| p.0 == part) {
            Some(known) => known.1 += 1,
            None => parts.push((part, 1)),
        }
    }
    let said: Vec<_> =
        parts.iter().map(|(part, n)| if *n == 1 { part.to_string() } else { format!("{n} × {part}") }).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// The steps of a single token that no fused kernel takes on any GPU, by their parts; `None` if all are taken on a device that is
/// large enough.
pub fn unfused_because(plan: &Plan) -> Option<String> {
    unfused(plan, &pieces(plan, &|work| shapes(plan, work)))
}

/// The kernels that a single token runs by, in order, on a device that is large enough for the fused ones, and the steps of each.
pub fn groups(plan: &Plan) -> Vec<(&'static str, Vec<StepName>)> {
    let names = |steps: &Range<usize>| plan.steps[steps.clone()].iter().map(|s| s.name.clone()).collect();
    let pieces = pieces(plan, &|work| shapes(plan, work));
    pieces.iter().filter_map(|p| Some((p.kernel(plan)?, names(&p.steps)))).collect()
}

/// The kernels of a layer, as a token meets them.
pub(super) fn layer(plan: &Plan, pieces: &[Piece]) -> String {
    let first = plan.steps.iter().find_map(|s| s.name.layer);
    let here = pieces.iter().filter(|p| first.is_some() && plan.steps[p.steps.start].name.layer == first);
    here.filter_map(|p| p.kernel(plan)).collect::<Vec<_>>().join(" ")
}

struct Cutter<'a> {
    plan: &'a Plan,
    takes: Takes<'a>,
    /// For every product that a fused kernel can make: the f32 row that it is made of.
    sources: Vec<Option<BufferId>>,
    /// For every quantisation: whether it is made, because a plain kernel reads it.
    made: Vec<bool>,
    /// For every step: the input of a norm that everybody who reads it makes again, and that norm.
    folded: Vec<Option<(BufferId, Norm)>>,
}

impl Cutter<'_> {
    fn sources(&self) -> Vec<Option<BufferId>> {
        let mut quantized: HashMap<BufferId, BufferId> = HashMap::new();
        let mut sources = Vec::new();
        for (i, step) in self.plan.steps.iter().enumerate() {
            sources.push(self.product(i).and_then(|(product, x)| {
                let float = self.plan.weights[product.weight.0].format.activation_block().is_none();
                let source = if float { Some(x) } else { quantized.get(&x).copied() };
                source.filter(|x| *x != product.out && self.takes_alone(*x, None, product))
            }));
            // What was quantised of a row is no longer what the row holds.
            quantized.retain(|_, x| step.op.output() != Some(*x));
            if let Op::QuantizeActivations(ops::QuantizeActivations { x, out }) = step.op {
                quantized.insert(out, x);
            }
        }
        sources
    }

    /// A step as a product, and what it multiplies.
    fn product(&self, i: usize) -> Option<(Product, BufferId)> {
        match self.plan.steps[i].op {
            Op::Matmul(ops::Matmul { weight, bias, x, out }) => {
                Some((Product { step: i, weight, bias, out, experts: None }, x))
            }
            Op::ExpertMatmul(ref op @ ops::ExpertMatmul { weight, experts: count, bias, x, routes, out }) => {
                let shapes = self.plan.shapes();
                let (used, slotted) = (op.used(&shapes), op.has_slots(&shapes));
                let experts = Some(Experts { routes, count, used, slotted });
                Some((Product { step: i, weight, bias, out, experts }, x))
            }
            _ => None,
        }
    }

    /// Whether there is a kernel for one product, behind a norm or not.
    fn takes_alone(&self, x: BufferId, norm: Option<Norm>, product: Product) -> bool {
        let (before, products) = (Before { join: None, norm }, vec![product]);
        (self.takes)(&Work::Products { x, before, products, end: End::Rows }).is_ok()
    }

    /// Norms of rows whose readers are all products, where their input stays what it is.
    fn folded(&self) -> Vec<Option<(BufferId, Norm)>> {
        let fold = |i: usize| {
            let Op::RmsNorm(n @ ops::RmsNorm { x, weight, out, eps }) = &self.plan.steps[i].op else { return None };
            let norm = Norm { weight: *weight, eps: *eps };
            let mut reads = 0;
            for (j, step) in self.plan.steps.iter().enumerate().skip(i + 1) {
                if self.sources[j] == Some(*out) {
                    let taken = self.product(j).is_some_and(|(product, _)| self.takes_alone(*x, Some(norm), product));
                    reads = if taken { j } else { return None };
                } else if step.op.reads().any(|b| b == *out) && !self.is_nothing(j) {
                    return None;
                }
                if step.op.output() == Some(*out) {
                    break;
                }
            }
            let kept = self.plan.steps[i + 1..=reads.max(i)].iter().all(|s| s.op.output() != Some(*x));
            (reads > 0 && kept && x != out && n.heads(&self.plan.shapes()) == 1).then_some((*x, norm))
        };
        (0..self.plan.steps.len()).map(fold).collect()
    }

    /// The norm that a row is behind at a step, where its readers make it again, and its input.
    fn behind(&self, row: BufferId, at: usize) -> Option<(BufferId, Norm)> {
        let made = self.plan.steps[..at].iter().rposition(|s| s.op.output() == Some(row))?;
        self.folded[made]
    }

    fn made(&self) -> Vec<bool> {
        let read = |i: usize, out: BufferId| {
            let behind = self.plan.steps.iter().enumerate().skip(i + 1);
            let until = behind.take_while(
                |(_, s)| !matches!(s.op, Op::QuantizeActivations(ops::QuantizeActivations { out: o, .. }) if o == out),
            );
            until.into_iter().any(|(i, s)| s.op.reads().any(|b| b == out) && self.sources[i].is_none())
        };
        let steps = self.plan.steps.iter().enumerate();
        steps
            .map(|(i, s)| matches!(s.op, Op::QuantizeActivations(ops::QuantizeActivations { out, .. }) if read(i, out)))
            .collect()
    }

    /// Whether a step is a quantisation that nothing makes.
    fn is_nothing(&self, i: usize) -> bool {
        matches!(self.plan.steps[i].op, Op::QuantizeActivations(ops::QuantizeActivations { .. })) && !self.made[i]
    }

    /// Whether nobody behind the step `last` reads what the buffer holds then.
    fn is_over(&self, buffer: BufferId, last: usize) -> bool {
        self.plan.is_over(buffer, last, |i| match self.sources[i] {
            Some(x) => x == buffer,
            None => !self.is_nothing(i) && self.plan.steps[i].op.reads().any(|b| b == buffer),
        })
    }

    /// The piece that begins at a step.
    fn next(&self, at: usize) -> Option<Piece> {
        let step = self.plan.steps.get(at)?;
        let one = |work, leaves: &[usize]| Piece { steps: at..at + 1, leaves: leaves.to_vec(), work };
        if let Some(piece) = self.heads(at).or_else(|| self.joined(at)).or_else(|| self.join(at)) {
            return Some(piece);
        }
        Some(match step.op {
            _ if self.is_nothing(at) => one(Work::Nothing, &[]),
            Op::Embedding(ops::Embedding { weight, out }) => one(Work::Embedding { weight, out }, &[at]),
            Op::Gather(ops::Gather { x, out }) if !self.plan.steps[at + 1..].iter().any(|s| s.op.touches(x)) => {
                one(Work::Same { x, out }, &[at])
            }
            Op::Attention(ref op) => self.attention(at, op).unwrap_or_else(|| one(Work::Plain, &[at])),
            Op::RmsNorm(ref norm @ ops::RmsNorm { x, weight, out, eps }) if norm.heads(&self.plan.shapes()) == 1 => {
                let products = self.products(at, None, x, Some((out, Norm { weight, eps })));
                let made_again = self.folded[at].is_some();
                products.unwrap_or_else(|| if made_again { one(Work::Nothing, &[]) } else { one(Work::Plain, &[at]) })
            }
            Op::Matmul(_) | Op::ExpertMatmul(_) => {
                let source = self.sources[at].and_then(|row| match self.behind(row, at) {
                    Some((x, norm)) => self.products(at, None, x, Some((row, norm))),
                    None => self.products(at, None, row, None),
                });
                source.unwrap_or_else(|| one(Work::Plain, &[at]))
            }
            _ => one(Work::Plain, &[at]),
        })
    }

    /// The products of `x` from a step on, which a branch joins first or not, behind a norm or not, with the longest end that there is a
    /// kernel for.
    fn products(
        &self,
        first: usize,
        join: Option<JoinSteps>,
        x: BufferId,
        norm: Option<(BufferId, Norm)>,
    ) -> Option<Piece> {
        let row = norm.map_or(x, |n| n.0);
        let begins_with_norm = matches!(self.plan.steps[first].op, Op::RmsNorm(_));
        let (mut products, mut end): (Vec<Product>, _) = (Vec::new(), first);
        for (i, step) in self.plan.steps.iter().enumerate().skip(first + usize::from(begins_with_norm)) {
            match self.product(i) {
                Some((product, _))
                    if self.sources[i] == Some(row)
                        && product.out != x
                        && products.iter().all(|p| p.out != product.out && p.experts == product.experts) =>
                {
                    products.push(product);
                    end = i + 1;
                }
                None if self.is_nothing(i) && step.op.reads().any(|b| b == row) => {}
                _ => break,
            }
        }
        // Those who read the norm elsewhere make it again.
        let kept = norm.map(|n| n.0).filter(|row| self.behind(*row, first + 1).is_none());
        // The longest end, then all products by themselves, then the first of them: `sources` says that there is a kernel for each.
        let rows = |n: usize| {
            let some = &products[..n];
            Some((some, End::Rows, some.last()?.step, some.iter().map(|p| p.step).collect()))
        };
        let ended = self.ends([x, row], &products, end);
        let ended = ended.map(|(ends, more, leaves)| (&products[..], ends, end + more - 1, leaves));
        let ways = [ended, rows(products.len()), rows(products.len().min(1))];
        ways.into_iter().flatten().find_map(|(products, ends, last, leaves)| {
            // What joins the products leaves only its result; a norm leaves nothing.
            let inner = products.iter().map(|p| p.out).filter(|out| match ends {
                End::Rows => false,
                End::Heads { .. } => *out != products[0].out,
                End::Gate { .. } | End::Residual { .. } | End::Sum { .. } => true,
            });
            if !inner.chain(kept).all(|b| self.is_over(b, last)) {
                return None;
            }
            // Every workgroup reads the branch, so none may write to it.
            let written = leaves.iter().filter_map(|i| self.plan.steps[*i].op.output());
            if join.is_some_and(|join| written.into_iter().any(|out| out == join.branch)) {
                return None;
            }
            let before = Before { join, norm: norm.map(|n| n.1) };
            let work = Work::Products { x, before, products: products.to_vec(), end: ends };
            (self.takes)(&work).ok()?;
            Some(Piece { steps: first..last + 1, leaves, work })
        })
    }

    /// Attention, and where nobody reads more of its heads than the first elements, only those.
    fn attention(&self, at: usize, op: &ops::Attention) -> Option<Piece> {
        let whole = AttentionSteps { op: op.clone(), out: op.out, values: self.plan.caches[op.cache.0].head_dim };
        let first = match self.plan.steps.get(at + 1).map(|s| &s.op) {
            Some(Op::Columns(ops::Columns { heads, a: Slice { x, from: 0, count }, b: None, out }))
                if *heads == op.heads && *x == op.out && *out != op.q && self.is_over(*x, at + 1) =>
            {
                Some(AttentionSteps { op: op.clone(), out: *out, values: *count })
            }
            _ => None,
        };
        let ways = [first.map(|first| (first, at + 1)), Some((whole, at))];
        ways.into_iter().flatten().find_map(|(steps, last)| {
            let work = Work::Attention(steps);
            (self.takes)(&work).ok()?;
            Some(Piece { steps: at..last + 1, leaves: vec![last], work })
        })
    }

    /// Norms of heads, RoPE and the cache, where one kernel makes what these steps leave.
    fn heads(&self, at: usize) -> Option<Piece> {
        let mut last = at;
        let mut two = |wanted: fn(&Op) -> bool| {
            let both = self.plan.steps.get(last..last + 2)?;
            let fits = wanted(&both[0].op) && wanted(&both[1].op);
            fits.then(|| {
                last += 2;
                [&both[0].op, &both[1].op]
            })
        };
        let norms = two(|op| matches!(op, Op::RmsNorm(_)));
        let ropes = two(|op| matches!(op, Op::Rope(_)));
        let Op::KvStore(ops::KvStore { k: stored, v, cache }) = &self.plan.steps.get(last)?.op else { return None };
        let head_dim = self.plan.caches[cache.0].head_dim;
        let (mut from, mut to) = (None, None);
        let norms = match norms {
            Some([Op::RmsNorm(a), Op::RmsNorm(b)]) => {
                let each = |n: &ops::RmsNorm| self.plan.weights[n.weight.0].cols == head_dim;
                (each(a) && each(b) && a.out != b.x).then_some(())?;
                (from, to) = (Some([a.x, b.x]), Some([a.out, b.out]));
                Some([a, b].map(|n| Norm { weight: n.weight, eps: n.eps }))
            }
            _ => None,
        };
        let rope = match ropes {
            Some([Op::Rope(a), Op::Rope(b)]) => {
                let alike = (a.angles, a.neox, a.head_dim) == (b.angles, b.neox, b.head_dim) && a.head_dim == head_dim;
                (alike && to.unwrap_or([a.x, b.x]) == [a.x, b.x]).then_some(())?;
                (from, to) = (from.or(Some([a.x, b.x])), Some([a.x, b.x]));
                Some((a.angles, a.neox))
            }
            _ => None,
        };
        let ([q, k], [out, k_out]) = (from?, to?);
        // The keys that are stored are left nowhere else; of the queries only what attention reads.
        let apart = ![q, k, out, k_out].contains(v) && q != k && out != k_out;
        let fits = apart && k_out == *stored && self.is_over(k_out, last);
        let h = HeadSteps { q, k, v: *v, out, norms, rope, cache: *cache };
        (fits && (self.takes)(&Work::Heads(h)).is_ok()).then_some(())?;
        Some(Piece { steps: at..last + 1, leaves: vec![last - 2, last], work: Work::Heads(h) })
    }

    /// A branch that joins the stream, and the products of the sum behind a norm.
    fn joined(&self, at: usize) -> Option<Piece> {
        let (join, last) = self.joins(at)?;
        let Op::RmsNorm(norm @ ops::RmsNorm { x, weight, out, eps }) = &self.plan.steps.get(last + 1)?.op else {
            return None;
        };
        let norms_sum = *x == join.x && *out != join.branch && norm.heads(&self.plan.shapes()) == 1;
        let norm = Some((*out, Norm { weight: *weight, eps: *eps }));
        let products = norms_sum.then(|| self.products(last + 1, Some(join), *x, norm)).flatten()?;
        let leaves = [vec![last], products.leaves].concat();
        Some(Piece { steps: at..products.steps.end, leaves, work: products.work })
    }

    /// A branch that joins the stream.
    fn join(&self, at: usize) -> Option<Piece> {
        let (join, last) = self.joins(at)?;
        let work = Work::Join(join);
        // A bare sum needs no kernel of its own.
        (join.norm.is_some() || join.scale.is_some()).then_some(())?;
        (self.takes)(&work).ok()?;
        Some(Piece { steps: at..last + 1, leaves: vec![last], work })
    }

    /// A norm or a scale, or both, or none, and the sum with the stream, which is their last step.
    fn joins(&self, at: usize) -> Option<(JoinSteps, usize)> {
        let mut steps = self.plan.steps[at..].iter().map(|s| &s.op).take(3).enumerate().peekable();
        let (_, first) = steps.peek()?;
        let (branch, norm, mut joins) = match first {
            Op::RmsNorm(n) if n.heads(&self.plan.shapes()) == 1 => {
                (n.x, Some(Norm { weight: n.weight, eps: n.eps }), n.out)
            }
            Op::Scale(s) => (s.x, None, s.x),
            Op::Add(s) => (s.b, None, s.b),
            _ => return None,
        };
        if norm.is_some() {
            steps.next();
        }
        let mut scale = None;
        if let Some((_, Op::Scale(s))) = steps.peek()
            && s.x == joins
        {
            (scale, joins) = (Some(s.by), s.x);
            steps.next();
        }
        let Some((behind, Op::Add(ops::Add { x, b }))) = steps.next() else { return None };
        let last = at + behind;
        let fits = *b == joins && ![branch, joins].contains(x) && self.is_over(joins, last);
        fits.then_some((JoinSteps { x: *x, branch, norm, scale }, last))
    }

    /// What the steps from `at` on make of products `from` a row, and what its norm is of, before they are stored: how, how many steps these are, and which of them
    /// leave an output.
    fn ends(&self, from: [BufferId; 2], products: &[Product], at: usize) -> Option<(End, usize, Vec<usize>)> {
        let ops: Vec<&Op> = self.plan.steps[at..].iter().take(3).map(|s| &s.op).collect();
        match (products, &ops[..]) {
            (
                [q, k, v],
                [
                    Op::Rope(ops::Rope { x: q1, head_dim, angles, neox }),
                    Op::Rope(ops::Rope { x: k1, head_dim: k_dim, angles: k_angles, neox: k_neox }),
                    Op::KvStore(ops::KvStore { k: k2, v: v1, cache }),
                ],
            ) if [*q1, *k1, *k2, *v1] == [q.out, k.out, k.out, v.out]
                && [*head_dim, *k_dim] == [self.plan.caches[cache.0].head_dim; 2]
                && (k_angles, k_neox) == (angles, neox) =>
            {
                Some((End::Heads { angles: *angles, cache: *cache, neox: *neox }, 3, vec![at, at + 2]))
            }
            ([a, b], [gate, ..]) if a.experts.is_some() || (a.bias.is_none() && b.bias.is_none()) => {
                let (from_gate, out, gate) = match gate {
                    Op::SiluMul(ops::SiluMul { a, b, out }) => ([*a, *b], *out, Gate::Silu),
                    Op::GeluMul(ops::GeluMul { a, b, out }) => ([*a, *b], *out, Gate::Gelu),
                    Op::ClampedGate(ops::ClampedGate { a, b, out }) => ([*a, *b], *out, Gate::Clamped),
                    _ => return None,
                };
                let fits = from_gate == [a.out, b.out] && !from.contains(&out);
                fits.then_some((End::Gate { out, gate }, 1, vec![at]))
            }
            ([p], [Op::Combine(ops::Combine { x, routes, out }), more @ ..])
                if *x == p.out
                    && p.experts.is_some_and(|e| e.slotted && e.routes == Some(*routes))
                    && !from.contains(out) =>
            {
                match more {
                    [Op::Add(ops::Add { x: to, b }), ..]
                        if b == out && !from.contains(to) && to != routes && self.is_over(*out, at + 1) =>
                    {
                        Some((End::Sum { out: *to, residual: true }, 2, vec![at + 1]))
                    }
                    _ => Some((End::Sum { out: *out, residual: false }, 1, vec![at])),
                }
            }
            ([p], [Op::Add(ops::Add { x: to, b }), ..]) if *b == p.out && !from.contains(to) => {
                Some((End::Residual { x: *to }, 1, vec![at]))
            }
            _ => None,
        }
    }
}

//! What a person should look at, in words.

use super::{LayerFigures, Reference, StepFigures};

/// Entropy, as a share of an even choice, from which on a model hardly chooses.
const UNDECIDED: f64 = 0.9;
/// A spread below this share of the largest before it has collapsed, if the distribution is flat as well.
const COLLAPSED_SPREAD: f64 = 0.1;
/// How flat a distribution is then, as a share of an even choice.
const FLAT: f64 = 0.7;
/// A norm below this share of the embedding's has collapsed.
const COLLAPSED_NORM: f64 = 0.1;
/// Growth of the norm in one layer that is an explosion.
const EXPLOSION: f64 = 100.0;
/// A layer that turns and stretches the residual stream by less does nothing.
const NOTHING: f64 = 1e-6;
/// Evenness of a layer's attention from which on it looks at nothing in particular.
const EVEN_ATTENTION: f64 = 0.99;
/// A step this far from the reference has left it.
const LOST: f64 = 0.3;

/// What was found in the layers of a run.
struct Finding {
    kind: &'static str,
    text: String,
}

/// All warnings; findings in the layers say whether the reference shows them too.
pub(super) fn of(steps: &[StepFigures], layers: &[LayerFigures], reference: Option<&Reference>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(s) = steps.iter().find(|s| s.non_finite > 0) {
        found.push(format!("step '{}' is the first with NaN or infinity ({} elements)", s.step, s.non_finite));
    }
    if let Some(s) = steps.iter().find(|s| s.zeros == 1.0) {
        found.push(format!("step '{}' is the first that gives nothing but zeros", s.step));
    }
    if let Some(s) = steps.iter().find(|s| s.error.is_some_and(|e| e > LOST || e.is_nan())) {
        let percent = 100.0 * s.error.unwrap_or_default();
        found
            .push(format!("step '{}' ({}) is the first that is far from float64: off by {percent:.0} %", s.step, s.op));
    }
    let truth = reference.map(|r| findings(&r.layers));
    found.extend(findings(layers).into_iter().map(|Finding { kind, text }| match &truth {
        None => text,
        Some(truth) if truth.iter().any(|t| t.kind == kind) => {
            format!("{text}; so it is in float64: the model is like that, rounding is not the reason")
        }
        Some(_) => format!("{text}; not so in float64: rounding or a wrong op is the reason"),
    }));
    found
}

/// One finding of each kind, in the order of the layers.
fn findings(layers: &[LayerFigures]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    let mut add = |kind, text: String| {
        if found.iter().all(|f| f.kind != kind) {
            found.push(Finding { kind, text });
        }
    };
    let Some(embedding) = layers.first() else { return found };
    let mut widest: Option<&LayerFigures> = None;
    for pair in layers.windows(2) {
        let (before, l) = (&pair[0], &pair[1]);
        let name = l.name();
        if l.l2 > EXPLOSION * before.l2.max(1e-6) && before.layer.is_some_and(|b| b > 0) {
            add("explosion", format!("the norm explodes in {name}: {:.3e} to {:.3e}", before.l2, l.l2));
        }
        if l.l2 < COLLAPSED_NORM * embedding.l2 {
            let (small, all) = (l.l2, embedding.l2);
            add(
                "norm",
                format!("the hidden state collapses: its norm after {name} is {small:.3e}, the embedding's {all:.3e}"),
            );
        }
        if 1.0 - l.cosine < NOTHING && (l.l2 / before.l2 - 1.0).abs() < NOTHING {
            add("dead", format!("{name} changes nothing: it is dead"));
        }
        if l.attention.is_some_and(|a| a > EVEN_ATTENTION) {
            add("attention", format!("the attention of {name} is uniform: every head weighs all positions alike"));
        }
        if let Some(w) = widest.filter(|w| l.spread < COLLAPSED_SPREAD * w.spread && l.entropy > FLAT * l.even) {
            let (from, to, wide) = (w.spread, l.spread, w.name());
            add("spread", format!("the spread of the logits collapses: {from:.3} after {wide}, {to:.3} after {name}"));
        }
        if widest.is_none_or(|w| l.spread > w.spread) {
            widest = Some(l);
        }
    }
    if let Some(last) = layers.last().filter(|l| l.entropy > UNDECIDED * l.even) {
        let (share, spread, name) = (100.0 * last.entropy / last.even, last.spread, last.name());
        let text = format!(
            "the model hardly chooses: the entropy after {name} is {share:.0} % of an even choice, the spread {spread:.3}"
        );
        add("undecided", text);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A healthy model of six layers, changed by `f`.
    fn model(f: impl Fn(usize, &mut LayerFigures)) -> Vec<LayerFigures> {
        let layer = |i: usize| LayerFigures {
            layer: i.checked_sub(1),
            l2: 10.0 * (1 + i) as f64,
            deviation: 1.0,
            cosine: 0.9,
            entropy: 3.0,
            even: 10.0,
            spread: 4.0,
            attention: (i > 0).then_some(0.5),
            top: Vec::new(),
        };
        let mut layers: Vec<_> = (0..7).map(layer).collect();
        layers.iter_mut().enumerate().for_each(|(i, l)| f(i, l));
        layers
    }

    fn said(layers: &[LayerFigures]) -> Vec<String> {
        of(&[], layers, None)
    }

    #[test]
    fn each_trouble_is_said_once_with_its_layer() {
        assert!(said(&model(|_, _| ())).is_empty());
        for (text, change) in [
            (
                "explodes in blk.3: 4.000e1 to 5.000e4",
                (|i, l| {
                    if i == 4 {
                        l.l2 = 5e4
                    }
                }) as fn(usize, &mut LayerFigures),
            ),
            ("collapses: its norm after blk.2 is 5.000e-1", |i, l| {
                if i > 2 {
                    l.l2 = 0.5
                }
            }),
            ("blk.1 changes nothing", |i, l| {
                if i == 2 {
                    (l.cosine, l.l2) = (1.0, 20.0)
                }
            }),
            ("attention of blk.0 is uniform", |i, l| {
                if i > 0 {
                    l.attention = Some(0.999)
                }
            }),
            ("collapses: 0.700 after blk.0, 0.040 after blk.1", |i, l| {
                l.spread = if i < 2 { 0.7 } else { 0.04 };
                l.entropy = 8.0;
            }),
            ("hardly chooses: the entropy after blk.5 is 99 %", |_, l| l.entropy = 9.9),
        ] {
            let mut layers = model(change);
            if text.contains("nothing") {
                layers[1].l2 = 20.0;
            }
            let said = said(&layers);
            assert!(said.len() == 1 && said[0].contains(text), "{text}: {said:?}");
        }
    }

    #[test]
    fn the_reference_tells_the_reason() {
        let flat = model(|_, l| l.entropy = 9.9);
        let errors = vec![super::super::LayerError { error: 0.0, cosine: 1.0 }; flat.len()];
        let reference = |layers: Vec<LayerFigures>| Reference { layers, logits: errors[0], errors: errors.clone() };
        assert!(of(&[], &flat, Some(&reference(flat.clone())))[0].contains("rounding is not the reason"));
        assert!(of(&[], &flat, Some(&reference(model(|_, _| ()))))[0].contains("a wrong op is the reason"));
    }
}

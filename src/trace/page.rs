//! A trace as one HTML page, readable without network.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{LayerFigures, PlotError, Trace, plot};

/// What was compared, and whether it is equal.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether every bit is the same.
    pub equal: bool,
    /// The verdict in words.
    pub text: String,
}

/// Everything a page shows.
pub struct Page<'a> {
    /// The model's name.
    pub model: &'a str,
    /// Names and values above the plot: backend, prompt, ….
    pub facts: Vec<(&'static str, String)>,
    /// Comparisons with other runs.
    pub verdicts: &'a [Verdict],
    /// The trace.
    pub trace: &'a Trace,
    /// The text of a token.
    pub piece: &'a dyn Fn(u32) -> String,
}

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1240px; margin: 24px auto; padding: 0 16px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 19px; margin: 30px 0 8px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; margin: 10px 0 }
dt { color: #666 } dd { margin: 0 }
.box { border-left: 6px solid #888; background: #f6f6f6; padding: 8px 14px; margin: 8px 0; border-radius: 3px }
.good { border-color: #2a8; background: #eefaf5 } .look { border-color: #e80; background: #fff6e8 }
.bad { border-color: #c22; background: #fdeeee }
svg { width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13.5px; width: 100% }
th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #888; text-align: right; padding: 4px 8px }
td { text-align: right; padding: 2px 8px; border-bottom: 1px solid #eee; white-space: nowrap }
.text { text-align: left; white-space: normal } td.wrong { background: #fdeeee; font-weight: 600 }
code { background: #f2f2f2; border-radius: 3px; padding: 0 4px; margin-right: 5px; white-space: pre }
p.note { color: #666; margin: 4px 0 10px }
";

impl Page<'_> {
    /// The page's text.
    ///
    /// # Errors
    /// When the plot cannot be drawn.
    pub fn html(&self) -> Result<String, PlotError> {
        let title = format!("samebits trace: {}", self.model);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head { meta charset="utf-8"; title { (title) } style { (PreEscaped(STYLE)) } }
                body {
                    h1 { (title) }
                    dl { @for (name, value) in &self.facts { dt { (name) } dd { (value) } } }
                    (self.boxes())
                    h2 { "Over the depth of the model" }
                    (PreEscaped(plot::svg(self.trace)?))
                    (self.layers())
                    (self.steps())
                }
            }
        };
        Ok(page.into_string())
    }

    fn boxes(&self) -> Markup {
        html! {
            @for v in self.verdicts { div class=(if v.equal { "box good" } else { "box bad" }) { (v.text) } }
            @for w in &self.trace.warnings { div class="box look" { strong { "Look at this: " } (w) } }
            @if self.trace.warnings.is_empty() {
                div class="box good" {
                    "Nothing stands out: no collapse, no explosion, no dead layer, no uniform attention, all numbers finite."
                }
            }
            @if let Some(r) = &self.trace.reference {
                div class="box" { (r.summary()) }
            }
        }
    }

    fn layers(&self) -> Markup {
        let reference = self.trace.reference.as_ref();
        let errors = |i: usize| reference.and_then(|r| r.errors.get(i));
        html! {
            h2 { "Layers" }
            p class="note" {
                "The last token of the prompt. The likeliest next tokens are those of the final norm and the output matrix "
                "applied after the layer (the logit lens)."
            }
            table {
                thead { tr {
                    th class="text" { "after" } th { "norm" } th { "deviation" } th { "cosine" } th { "entropy" }
                    th { "spread" } th { "attention" }
                    @if reference.is_some() { th { "error" } th { "cosine to f64" } }
                    th class="text" { "likeliest next tokens" }
                } }
                tbody { @for (i, l) in self.trace.layers.iter().enumerate() { tr {
                    td class="text" { (l.name()) }
                    td { (format!("{:.3}", l.l2)) } td { (format!("{:.4}", l.deviation)) } td { (format!("{:.4}", l.cosine)) }
                    td { (format!("{:.3}", l.entropy)) } td { (format!("{:.3}", l.spread)) }
                    td { (l.attention.map_or(String::new(), |a| format!("{a:.3}"))) }
                    @if let Some(e) = errors(i) { td { (format!("{:.2e}", e.error)) } td { (format!("{:.6}", e.cosine)) } }
                    td class="text" { (self.top(l)) }
                } } }
            }
        }
    }

    fn top(&self, l: &LayerFigures) -> Markup {
        html! { @for (id, _) in &l.top { code { (format!("{:?}", (self.piece)(*id))) } } }
    }

    fn steps(&self) -> Markup {
        let reference = self.trace.reference.is_some();
        html! {
            h2 { "Steps" }
            p class="note" { "Every step with float output, in the order of the plan; the last token of the prompt." }
            table {
                thead { tr {
                    th class="text" { "step" } th class="text" { "op" } th { "min" } th { "max" } th { "mean" } th { "deviation" }
                    th { "norm" } th { "zeros" } th { "not finite" } @if reference { th { "error" } }
                } }
                tbody { @for s in &self.trace.steps { tr {
                    td class="text" { (s.step) } td class="text" { (s.op) }
                    @for x in [s.min, s.max, s.mean, s.deviation, s.l2] { td { (format!("{x:.3e}")) } }
                    td { (format!("{:.1} %", 100.0 * s.zeros)) }
                    td class=(if s.non_finite > 0 { "wrong" } else { "" }) { (s.non_finite) }
                    @if let Some(e) = s.error { td { (format!("{e:.2e}")) } }
                } } }
            }
        }
    }
}

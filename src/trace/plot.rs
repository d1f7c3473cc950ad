//! The layer plot: spread, norm, entropy and error over depth, as SVG.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordi32;
use plotters::prelude::*;
use thiserror::Error;

use super::{LayerFigures, Trace};

/// Why there is no picture.
#[derive(Debug, Error)]
#[error("cannot draw the layer plot: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

const SIZE: (u32, u32) = (1200, 760);

// Distinguishable for colour-blind readers (Okabe and Ito 2008).
const BLUE: RGBColor = RGBColor(0, 114, 178);
const ORANGE: RGBColor = RGBColor(213, 94, 0);
const GREY: RGBColor = RGBColor(130, 130, 130);
/// Of the reference, which is drawn wide, so that it shows under a run that follows it.
const PALE: RGBColor = RGBColor(190, 190, 190);

struct Curve {
    name: &'static str,
    colour: RGBColor,
    width: u32,
    /// A value per layer.
    values: Vec<f64>,
}

struct Panel {
    title: &'static str,
    log: bool,
    /// The range, where it does not follow from the values.
    range: Option<Range<f64>>,
    curves: Vec<Curve>,
}

/// Draws four panels over the depth of the model.
///
/// # Errors
/// When the plotting library fails.
pub fn svg(trace: &Trace) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        for (area, panel) in area.split_evenly((2, 2)).iter().zip(panels(trace)) {
            draw(area, &panel, &trace.layers)?;
        }
        area.present()?;
    }
    Ok(text)
}

fn panels(trace: &Trace) -> [Panel; 4] {
    let of = |layers: &[LayerFigures], f: fn(&LayerFigures) -> f64| layers.iter().map(f).collect::<Vec<_>>();
    let run = |values| Curve { name: "this run", colour: BLUE, width: 2, values };
    let with_reference = |f: fn(&LayerFigures) -> f64| -> Vec<Curve> {
        let pale = |values| Curve { name: "float64", colour: PALE, width: 7, values };
        trace.reference.iter().map(|r| pale(of(&r.layers, f))).chain([run(of(&trace.layers, f))]).collect()
    };
    let mut entropy = with_reference(|l| l.entropy / l.even);
    entropy[0].name = if trace.reference.is_some() { "next token, float64" } else { "next token" };
    if let Some(curve) = entropy.get_mut(1) {
        curve.name = "next token, this run";
    }
    let values = of(&trace.layers, |l| l.attention.unwrap_or(f64::NAN));
    entropy.push(Curve { name: "attention weights", colour: ORANGE, width: 2, values });
    let panel = |title, log, range, curves| Panel { title, log, range, curves };
    [
        panel("Spread: first minus fifth logit", true, None, with_reference(|l| l.spread)),
        panel("Norm of the hidden state", true, None, with_reference(|l| l.l2)),
        panel("Entropy: share of an even choice", false, Some(0.0..1.05), entropy),
        match &trace.reference {
            Some(r) => {
                let errors = r.errors.iter().map(|e| e.error).collect();
                panel("Error against float64, relative", true, None, vec![run(errors)])
            }
            None => {
                let cosines = of(&trace.layers, |l| l.cosine);
                panel("Cosine to the layer before", false, None, vec![run(cosines)])
            }
        },
    ]
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel, layers: &[LayerFigures]) -> Result<(), PlotError> {
    let first = embedding_at(layers);
    let x = first..first + layers.len().saturating_sub(1).max(1) as i32;
    let mut builder = ChartBuilder::on(area);
    builder.margin(14).margin_right(24).caption(panel.title, ("sans-serif", 20));
    builder.x_label_area_size(44).y_label_area_size(64);
    let range = range(panel);
    if panel.log {
        curves(builder.build_cartesian_2d(x, range.log_scale())?, panel, layers)
    } else {
        curves(builder.build_cartesian_2d(x, range)?, panel, layers)
    }
}

/// Grid, labels, curves and legend of a panel.
fn curves<'a, Y: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordi32, Y>>,
    panel: &Panel,
    layers: &[LayerFigures],
) -> Result<(), PlotError> {
    let first = embedding_at(layers);
    let layer = |x: &i32| if *x == first { "embedding".to_owned() } else { x.to_string() };
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(RGBColor(243, 243, 243)).bold_line_style(RGBColor(225, 225, 225)).axis_style(GREY);
    mesh.x_desc("after layer; the first point is the embedding").x_labels(12).x_label_formatter(&layer);
    mesh.y_labels(6).y_label_formatter(&|y| number(*y)).label_style(("sans-serif", 14));
    mesh.draw()?;
    for curve in &panel.curves {
        let points = (first..).zip(curve.values.iter().copied()).filter(|(_, y)| shown(panel, *y));
        let style = curve.colour.stroke_width(curve.width);
        chart
            .draw_series(LineSeries::new(points, style).point_size(if curve.width > 2 { 0 } else { 3 }))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    if panel.curves.len() > 1 {
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.85)).border_style(GREY).label_font(("sans-serif", 14));
        labels.position(legend(panel)).draw()?;
    }
    Ok(())
}

/// Where the embedding stands: one before the first layer that was run.
fn embedding_at(layers: &[LayerFigures]) -> i32 {
    layers.iter().find_map(|l| l.layer).map_or(-1, |n| n as i32 - 1)
}

/// Whether a value can be drawn.
fn shown(panel: &Panel, y: f64) -> bool {
    y.is_finite() && (!panel.log || y > 0.0)
}

/// The range of a panel: whole decades, or some room around its values.
fn range(panel: &Panel) -> Range<f64> {
    if let Some(range) = &panel.range {
        return range.clone();
    }
    let values = panel.curves.iter().flat_map(|c| &c.values).copied().filter(|y| shown(panel, *y));
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    match (low.is_finite(), panel.log) {
        (false, _) => 0.1..1.0,
        (true, true) => {
            let (low, high) = (low.log10().floor(), high.log10().ceil());
            // A little less than the power of ten, so that its label is drawn.
            0.999 * 10f64.powf(low)..10f64.powf(high.max(low + 1.0))
        }
        (true, false) => {
            let room = 0.08 * (high - low).max(0.01 * high.abs()).max(1e-9);
            low - room..high + room
        }
    }
}

/// The place at the right edge that is furthest from the curves.
fn legend(panel: &Panel) -> SeriesLabelPosition {
    use SeriesLabelPosition::{LowerRight, MiddleRight, UpperRight};
    let Range { start, end } = range(panel);
    let scale = |y: f64| if panel.log { y.ln() } else { y };
    let height = |y: f64| (scale(y) - scale(start)) / (scale(end) - scale(start));
    let right = |c: &Curve| c.values[c.values.len() * 2 / 3..].to_vec();
    let heights: Vec<f64> = panel.curves.iter().flat_map(right).filter(|y| shown(panel, *y)).map(height).collect();
    let room = |at: f64| heights.iter().map(|h| (h - at).abs()).fold(1.0, f64::min);
    let places = [(0.88, UpperRight), (0.12, LowerRight), (0.5, MiddleRight)];
    let best = places.into_iter().reduce(|a, b| if room(b.0) > room(a.0) { b } else { a });
    best.map_or(UpperRight, |p| p.1)
}

/// An axis label: short, whatever the size.
fn number(y: f64) -> String {
    if y != 0.0 && !(1e-3..1e5).contains(&y.abs()) {
        return format!("{y:.0e}");
    }
    let text = format!("{y:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

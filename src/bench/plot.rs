//! A picture of the results: for each test a panel, in it a bar for each backend with its spread.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use thiserror::Error;

use super::Row;

/// Size of a panel in pixels.
const PANEL: (u32, u32) = (360, 300);
/// Panels beside each other.
const COLUMNS: usize = 3;
/// Colours of backends that one can tell apart (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(240, 228, 66),
];

/// Why there is no picture.
#[derive(Debug, Error)]
#[error("cannot draw the results: {0}")]
pub struct PlotError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for PlotError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// The rows as SVG: bars are means of tokens per second, whiskers one standard deviation.
///
/// # Errors
/// Whatever the drawing library reports.
pub fn svg(rows: &[Row]) -> Result<String, PlotError> {
    let mut tests: Vec<String> = Vec::new();
    let mut series: Vec<String> = Vec::new();
    for row in rows {
        for (list, name) in [(&mut tests, test(row)), (&mut series, place(row))] {
            if !list.contains(&name) {
                list.push(name);
            }
        }
    }
    let lines = tests.len().div_ceil(COLUMNS).max(1);
    let legend = 20 * series.len() as u32 + 10;
    let size = (PANEL.0 * tests.len().clamp(1, COLUMNS) as u32, PANEL.1 * lines as u32 + legend);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (panels, below) = root.split_vertically(size.1 - legend);
        for (area, test_name) in panels.split_evenly((lines, tests.len().clamp(1, COLUMNS))).iter().zip(&tests) {
            let bars: Vec<_> = rows.iter().filter(|r| test(r) == *test_name).collect();
            panel(area, test_name, &bars, &series)?;
        }
        for (i, name) in series.iter().enumerate() {
            let y = 20 * i as i32;
            below.draw(&Rectangle::new([(20, y), (34, y + 14)], colour(i).filled()))?;
            below.draw(&Text::new(name.as_str(), (42, y), ("sans-serif", 14)))?;
        }
        root.present()?;
    }
    Ok(text)
}

/// The bars of one test.
fn panel<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    title: &str,
    rows: &[&Row],
    series: &[String],
) -> Result<(), PlotError>
where
    B::ErrorType: 'static,
{
    let top = rows.iter().map(|r| r.avg_ts + r.stddev_ts).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .y_label_area_size(64)
        .x_label_area_size(8)
        .build_cartesian_2d(0.0..rows.len() as f64, 0.0..top * 1.12)?;
    chart.configure_mesh().disable_x_mesh().disable_x_axis().y_desc("tokens/s").y_labels(6).draw()?;
    for (i, row) in rows.iter().enumerate() {
        let (left, middle, right) = (i as f64 + 0.15, i as f64 + 0.5, i as f64 + 0.85);
        let style = colour(series.iter().position(|s| *s == place(row)).unwrap_or_default()).filled();
        chart.draw_series([Rectangle::new([(left, 0.0), (right, row.avg_ts)], style)])?;
        let (low, high) = (row.avg_ts - row.stddev_ts, row.avg_ts + row.stddev_ts);
        let whisker = |from, to| PathElement::new(vec![from, to], BLACK);
        chart.draw_series([
            whisker((middle, low), (middle, high)),
            whisker((middle - 0.08, low), (middle + 0.08, low)),
            whisker((middle - 0.08, high), (middle + 0.08, high)),
        ])?;
        let label = if row.differs { format!("{:.1} DIFFERS", row.avg_ts) } else { format!("{:.1}", row.avg_ts) };
        let above = ("sans-serif", 13).into_text_style(area).pos(Pos::new(HPos::Center, VPos::Bottom));
        chart.draw_series([Text::new(label, (middle, high + top * 0.01), above)])?;
    }
    Ok(())
}

fn colour(series: usize) -> RGBColor {
    COLOURS[series % COLOURS.len()]
}

fn test(row: &Row) -> String {
    format!("{}, {}", row.model_type, row.test)
}

fn place(row: &Row) -> String {
    format!("{} ({}), {}, chunks of {}", row.backend, row.device, row.precision, row.n_ubatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_and_a_whisker_per_row() {
        let row = |backend: &str, test: &str, mean: f64| Row {
            backend: backend.to_owned(),
            test: test.to_owned(),
            avg_ts: mean,
            stddev_ts: 1.0,
            ..Row::default()
        };
        let rows = [row("cpu", "pp8", 100.0), row("vulkan", "pp8", 50.0), row("cpu", "tg4", 20.0)];
        let text = svg(&rows).unwrap_or_default();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        // Three bars and two of the legend, in the colours of their backends; a whisker has three lines.
        let count = |what: &str| text.matches(what).count();
        assert_eq!((count("fill=\"#0072B2\""), count("fill=\"#E69F00\"")), (3, 2));
        assert!(text.contains("pp8") && text.contains("tg4") && text.contains("100.0"));
        assert!(svg(&[]).is_ok());
    }
}

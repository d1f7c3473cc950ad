//! Rows as text: llama-bench's formats.

use std::fmt::Write as _;

use serde_json::Value;

use super::Row;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table in Markdown.
    Md,
    /// An array.
    Json,
    /// An object per line.
    Jsonl,
    /// Comma-separated values.
    Csv,
    /// Statements for SQLite.
    Sql,
}

/// Which columns a Markdown table has beyond those it always has. The other formats have all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns {
    /// CPU threads.
    pub threads: bool,
    /// Tokens of a prompt that run at once.
    pub chunk: bool,
    /// Precision.
    pub precision: bool,
    /// The ratio to an earlier run.
    pub ratio: bool,
    /// Everything that is measured.
    pub wide: bool,
}

/// Prints rows, at least one: what [`Printer::head`] gives, then [`Printer::row`] for each, then [`Printer::foot`].
pub struct Printer {
    format: Format,
    columns: Vec<Column>,
    rows: usize,
}

/// A column of the Markdown table.
struct Column {
    title: &'static str,
    /// Characters; text is flush left, numbers right.
    width: usize,
    left: bool,
    cell: fn(&Row) -> String,
}

const fn text(title: &'static str, width: usize, cell: fn(&Row) -> String) -> Column {
    Column { title, width, left: true, cell }
}

const fn figure(title: &'static str, width: usize, cell: fn(&Row) -> String) -> Column {
    Column { title, width, left: false, cell }
}

impl Printer {
    /// A printer before its first row.
    pub fn new(format: Format, show: Columns) -> Self {
        let mut columns = vec![
            text("model", 30, |r| r.model_type.clone()),
            figure("size", 10, |r| bytes(r.model_size)),
            figure("params", 10, |r| parameters(r.model_n_params)),
            text("backend", 10, |r| r.backend.clone()),
            text("device", 24, |r| r.device.clone()),
        ];
        if show.threads {
            columns.push(figure("threads", 7, |r| r.n_threads.map_or(String::new(), |n| n.to_string())));
        }
        if show.chunk {
            columns.push(figure("n_ubatch", 8, |r| r.n_ubatch.to_string()));
        }
        if show.precision {
            columns.push(text("precision", 9, |r| r.precision.clone()));
        }
        columns.push(figure("test", 15, |r| r.test.clone()));
        columns.push(figure("t/s", 20, |r| format!("{:.2} ± {:.2}", r.avg_ts, r.stddev_ts)));
        if show.ratio {
            columns.push(figure("to earlier", 13, ratio));
        }
        columns.push(figure("GB/s", 13, bandwidth));
        if show.wide {
            columns.extend([
                figure("median t/s", 10, |r| format!("{:.2}", r.median_ts)),
                figure("read GB/s", 9, |r| optional(r.read_gb_per_s, 1, "")),
                figure("dispatches", 10, |r| optional(r.dispatches_per_pass.or(r.dispatches_per_token), 1, "")),
                text("kernels of a layer", 42, |r| r.layer.clone().unwrap_or_default()),
                figure("encode", 9, |r| optional(r.encode_us_per_token, 1, " µs")),
                figure("load", 7, |r| format!("{:.2} s", r.load_s)),
                figure("first token", 11, |r| format!("{:.2} s", r.first_token_s)),
                figure("peak memory", 11, |r| r.peak_memory.map_or(String::new(), bytes)),
            ]);
        }
        columns.push(text("fingerprint", 16, |r| {
            if r.differs { format!("{} DIFFERS", r.fingerprint) } else { r.fingerprint.clone() }
        }));
        Self { format, columns, rows: 0 }
    }

    /// What comes before all rows; may be empty, as everything that is printed.
    pub fn head(&self) -> String {
        match self.format {
            Format::Json => "[\n".to_owned(),
            Format::Jsonl => String::new(),
            Format::Csv => format!("{}\n", names(&fields(&Row::default()))),
            Format::Sql => format!("CREATE TABLE IF NOT EXISTS bench ({});\n", names(&fields(&Row::default()))),
            Format::Md => {
                let line = |cell: &dyn Fn(&Column) -> String| {
                    format!("| {} |\n", self.columns.iter().map(cell).collect::<Vec<_>>().join(" | "))
                };
                let rule = |c: &Column| format!("{}{}", "-".repeat(c.width - 1), if c.left { '-' } else { ':' });
                line(&|c| c.pad(c.title)) + line(&rule).as_str()
            }
        }
    }

    /// A row.
    pub fn row(&mut self, row: &Row) -> String {
        self.rows += 1;
        match self.format {
            Format::Json => {
                let object = serde_json::to_string_pretty(row).unwrap_or_default();
                let indented = object.lines().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n");
                format!("{}{indented}", if self.rows > 1 { ",\n" } else { "" })
            }
            Format::Jsonl => format!("{}\n", serde_json::to_string(row).unwrap_or_default()),
            Format::Csv => {
                let cells: Vec<_> = fields(row).into_iter().map(|(_, value)| csv(&value)).collect();
                format!("{}\n", cells.join(","))
            }
            Format::Sql => {
                let fields = fields(row);
                let cells: Vec<_> = fields.iter().map(|(_, value)| sql(value)).collect();
                format!("INSERT INTO bench ({}) VALUES ({});\n", names(&fields), cells.join(", "))
            }
            Format::Md => {
                let cells: Vec<_> = self.columns.iter().map(|c| c.pad(&(c.cell)(row))).collect();
                format!("| {} |\n", cells.join(" | "))
            }
        }
    }

    /// Whether the text is JSON.
    pub fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// What comes after the rows where only so many of all tests were measured. CSV has no place for it.
    pub fn interrupted(&self, measured: usize, tests: usize) -> String {
        let mark = serde_json::json!({"interrupted": true, "measured": measured, "tests": tests});
        match self.format {
            Format::Json => format!("{}  {mark}", if self.rows > 0 { ",\n" } else { "" }),
            Format::Jsonl => format!("{mark}\n"),
            Format::Csv => String::new(),
            Format::Sql => format!("-- interrupted: {measured} of {tests} tests were measured\n"),
            Format::Md => format!("\ninterrupted: {measured} of {tests} tests were measured\n"),
        }
    }

    /// What comes after all rows: in Markdown their profiles.
    pub fn foot(&self, rows: &[Row]) -> String {
        match self.format {
            Format::Json => "\n]\n".to_owned(),
            Format::Md => rows.iter().filter(|r| !r.profile.is_empty()).map(profile).collect(),
            _ => String::new(),
        }
    }
}

impl Column {
    fn pad(&self, cell: &str) -> String {
        let width = self.width;
        if self.left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    }
}

/// A row's time per op and step.
fn profile(row: &Row) -> String {
    let mut out = format!("\n{} on {} ({}): time per step\n\n", row.test, row.backend, row.device);
    let _ = writeln!(out, "| {:<20} | {:<24} | {:>6} | {:>10} | {:>7} |", "op", "step", "calls", "time", "share");
    let _ = writeln!(out, "| {:-<20} | {:-<24} | {:->5}: | {:->9}: | {:->6}: |", "", "", "", "", "");
    let mut line = |op: &str, step: &str, calls: usize, seconds: f64, share: f64| {
        let time = format!("{:.3} ms", seconds * 1e3);
        let share = format!("{:.1} %", 100.0 * share);
        let _ = writeln!(out, "| {op:<20} | {step:<24} | {calls:>6} | {time:>10} | {share:>7} |");
    };
    for s in &row.profile {
        line(&s.op, &s.step, s.calls, s.seconds, s.share);
    }
    let sum = |f: fn(&super::Share) -> f64| row.profile.iter().map(f).sum();
    line("all", "", row.profile.iter().map(|s| s.calls).sum(), sum(|s| s.seconds), sum(|s| s.share));
    out
}

/// Everything but what is no single value.
fn fields(row: &Row) -> Vec<(String, Value)> {
    match serde_json::to_value(row) {
        Ok(Value::Object(object)) => object.into_iter().filter(|(name, _)| name != "profile").collect(),
        _ => Vec::new(),
    }
}

fn names(fields: &[(String, Value)]) -> String {
    fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(",")
}

fn csv(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        other => format!("\"{}\"", plain(other).replace('"', "\"\"")),
    }
}

fn sql(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => u8::from(*value).to_string(),
        other => format!("'{}'", plain(other).replace('\'', "''")),
    }
}

/// A value without quotes; the elements of an array with spaces between.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// llama-bench's `637.42 MiB`.
fn bytes(n: u64) -> String {
    let n = n as f64;
    if n < f64::from(1 << 30) {
        format!("{:.2} MiB", n / f64::from(1 << 20))
    } else {
        format!("{:.2} GiB", n / f64::from(1 << 30))
    }
}

/// llama-bench's `1.10 B`.
fn parameters(n: u64) -> String {
    let n = n as f64;
    if n < 1e9 { format!("{:.2} M", n / 1e6) } else { format!("{:.2} B", n / 1e9) }
}

fn optional(value: Option<f64>, decimals: usize, unit: &str) -> String {
    value.map_or(String::new(), |v| format!("{v:.decimals$}{unit}"))
}

fn bandwidth(r: &Row) -> String {
    match r.bandwidth_share {
        Some(share) => format!("{} ({:.0} %)", optional(r.gb_per_s, 1, ""), 100.0 * share),
        None => optional(r.gb_per_s, 1, ""),
    }
}

fn ratio(r: &Row) -> String {
    match (r.ratio, r.ratio_stddev) {
        (Some(ratio), Some(deviation)) => format!("{ratio:.3} ± {deviation:.3}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(format: Format, show: Columns) -> String {
        let row = Row {
            backend: "cpu".to_owned(),
            device: "2 threads, \"x\"".to_owned(),
            model_type: "llama 1B Q4_0".to_owned(),
            model_size: 668_381_184,
            model_n_params: 1_100_048_384,
            test: "tg128 @ d512".to_owned(),
            avg_ts: 31.267,
            stddev_ts: 0.123,
            samples_ts: vec![31.25, 31.5],
            fingerprint: "0123456789abcdef".to_owned(),
            ..Row::default()
        };
        let mut printer = Printer::new(format, show);
        [printer.head(), printer.row(&row), printer.row(&row), printer.foot(&[row.clone(), row])].concat()
    }

    #[test]
    fn markdown_is_llama_benchs_table_and_more() {
        let text = print(Format::Md, Columns::default());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "| model                          |       size |     params | backend    | device                   |            test |                  t/s |          GB/s | fingerprint      |"
        );
        assert_eq!(
            lines[1],
            "| ------------------------------ | ---------: | ---------: | ---------- | ------------------------ | --------------: | -------------------: | ------------: | ---------------- |"
        );
        assert_eq!(
            lines[2],
            "| llama 1B Q4_0                  | 637.42 MiB |     1.10 B | cpu        | 2 threads, \"x\"           |    tg128 @ d512 |         31.27 ± 0.12 |               | 0123456789abcdef |"
        );
        assert_eq!(lines.len(), 4);
        let all = Columns { threads: true, chunk: true, precision: true, ratio: true, wide: true };
        let wide = print(Format::Md, all);
        for title in ["threads", "n_ubatch", "precision", "to earlier", "dispatches", "encode", "peak memory"] {
            assert!(wide.lines().next().is_some_and(|l| l.contains(title)), "{title}");
        }
    }

    #[test]
    fn every_format_can_be_read_back() {
        let json: Vec<Row> = serde_json::from_str(&print(Format::Json, Columns::default())).unwrap_or_default();
        assert_eq!((json.len(), json[1].avg_ts, &json[0].device[..]), (2, 31.267, "2 threads, \"x\""));
        let jsonl = print(Format::Jsonl, Columns::default());
        assert!(jsonl.lines().count() == 2 && jsonl.lines().all(|l| serde_json::from_str::<Row>(l).is_ok()));
        let csv = print(Format::Csv, Columns::default());
        let lines: Vec<_> = csv.lines().collect();
        assert!(lines[0].starts_with("version,backend,device,model_filename,model_type,"), "{}", lines[0]);
        assert!(lines[1].contains("\"2 threads, \"\"x\"\"\"") && lines[1].contains("\"31.25 31.5\""), "{}", lines[1]);
        let sql = print(Format::Sql, Columns::default());
        assert!(sql.starts_with("CREATE TABLE IF NOT EXISTS bench (version,"));
        assert!(sql.contains("'2 threads, \"x\"'") && sql.contains(", NULL,"), "{sql}");
    }
}

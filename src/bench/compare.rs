//! Results against those of an earlier run.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::Row;

/// Why an earlier run cannot be read.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum CompareError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is no earlier run: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
}

/// An earlier run.
#[derive(Debug)]
pub struct Earlier(Vec<Row>);

impl Earlier {
    /// Reads what `samebits bench -o json` wrote.
    ///
    /// # Errors
    /// If the file cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Self, CompareError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| CompareError::Read { path: path.to_owned(), source })?;
        let json = |source| CompareError::Json { path: path.to_owned(), source };
        let mut rows: Vec<serde_json::Value> = serde_json::from_str(&text).map_err(json)?;
        // The mark of a run that was interrupted is no row.
        rows.retain(|row| row["interrupted"].is_null());
        Ok(Self(rows.into_iter().map(serde_json::from_value).collect::<Result<_, _>>().map_err(json)?))
    }

    /// Sets a row's ratio, where there is an earlier row of the same model, test, precision and backend: on the same
    /// device, or on the only one there was. The deviation is that of a quotient of independent means.
    pub fn relate(&self, row: &mut Row) {
        let name = |r: &Row| Path::new(&r.model_filename).file_name().map(|n| n.to_owned());
        let key = |r: &Row| (name(r), r.precision.clone(), [r.n_prompt, r.n_gen, r.n_depth], r.backend.clone());
        let wanted = key(row);
        let alike: Vec<_> = self.0.iter().filter(|e| key(e) == wanted && e.avg_ts > 0.0).collect();
        let earlier = match (alike.iter().find(|e| e.device == row.device), &alike[..]) {
            (Some(same), _) => same,
            (None, [only]) => only,
            _ => return,
        };
        let ratio = row.avg_ts / earlier.avg_ts;
        let spread = (row.stddev_ts / row.avg_ts).hypot(earlier.stddev_ts / earlier.avg_ts);
        (row.ratio, row.ratio_stddev) = (Some(ratio), Some(ratio * spread));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_carry_their_spread() {
        let row = |device: &str, mean: f64, deviation: f64| Row {
            model_filename: format!("{device}/model.gguf"),
            device: device.to_owned(),
            avg_ts: mean,
            stddev_ts: deviation,
            ..Row::default()
        };
        let mut new = row("b", 30.0, 3.0);
        Earlier(vec![row("a", 10.0, 0.0), row("b", 20.0, 0.0)]).relate(&mut new);
        assert_eq!((new.ratio, new.ratio_stddev), (Some(1.5), Some(0.1 * 1.5)));
        // Another device counts only if it is the only one.
        let mut new = row("c", 30.0, 0.0);
        Earlier(vec![row("a", 10.0, 0.0), row("b", 20.0, 0.0)]).relate(&mut new);
        assert_eq!(new.ratio, None);
        Earlier(vec![row("a", 10.0, 1.0)]).relate(&mut new);
        assert_eq!((new.ratio, new.ratio_stddev), (Some(3.0), Some(3.0 * 0.1)));
        let other_test = Row { n_prompt: 5, ..row("c", 10.0, 0.0) };
        let mut new = row("c", 30.0, 0.0);
        Earlier(vec![other_test]).relate(&mut new);
        assert_eq!(new.ratio, None);
    }
}

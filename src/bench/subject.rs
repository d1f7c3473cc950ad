//! The model that is measured.

use std::time::Duration;

use crate::convert::TARGETS;
use crate::gguf::ggml_type;
use crate::model::Model;
use crate::ops::ExpertMatmul;
use crate::plan::{Op, Plan, Step};

/// Rows of a matrix that belong to the experts a single row chooses.
pub(super) fn chosen_rows(plan: &Plan, op: &ExpertMatmul) -> usize {
    plan.weights[op.weight.0].rows / op.experts * op.used(&plan.shapes())
}

/// A model, and what is said of it.
pub struct Subject {
    /// The model.
    pub model: Model,
    /// Its file as the user named it.
    pub file: String,
    /// Time from the start of the process until it was open.
    pub opened_after: Duration,
}

impl Subject {
    /// llama-bench's description: architecture, class of size, file type, as in `llama 1B Q4_0`.
    pub fn description(&self) -> String {
        let c = &self.model.config;
        format!("{} {} {}", c.architecture, self.size_class(), self.file_type())
    }

    /// Bytes of all tensors.
    pub fn size(&self) -> u64 {
        self.model.gguf.tensors().iter().map(|t| t.bytes).sum()
    }

    /// Bytes that a pass of `rows` rows reads: all weights but those of experts that a single row does not choose, and what is seen of
    /// the cache at `position`, each once. `None` for several rows that choose experts, as nobody knows which.
    pub(super) fn bytes_per_pass(&self, plan: &Plan, rows: usize, position: usize) -> Option<u64> {
        if rows > 1 && plan.steps.iter().any(|step| matches!(step.op, Op::ExpertMatmul(_))) {
            return None;
        }
        let gguf = &self.model.gguf;
        // Of an embedding that is not also the output matrix, a token reads one row.
        let tied = gguf.tensor("output.weight").is_none();
        let looked_up = gguf.tensor("token_embd.weight").filter(|_| !tied).map_or(0, |t| t.bytes);
        let left_out = |step: &Step| match &step.op {
            Op::ExpertMatmul(op) => {
                let w = &plan.weights[op.weight.0];
                ((w.rows - chosen_rows(plan, op)) * w.format.row_bytes(w.cols)) as u64
            }
            _ => 0,
        };
        let left_out: u64 = plan.steps.iter().map(left_out).sum();
        // Keys and values are halves.
        let cache = plan.caches.iter().map(|c| 4 * c.width() * (position - c.first_seen(position))).sum::<usize>();
        Some(self.size() - looked_up - left_out + cache as u64)
    }

    /// llama.cpp's `llm_type_name`, which it takes from the number of layers; the number of weights for a model that it
    /// does not know.
    fn size_class(&self) -> String {
        let c = &self.model.config;
        let known = match c.block_count {
            _ if c.architecture != "llama" => "",
            16 | 22 => "1B",
            26 | 28 => "3B",
            30 => "256M",
            32 if c.vocabulary == 49152 => "3B",
            32 if c.vocabulary < 40000 => "7B",
            32 | 36 => "8B",
            40 => "13B",
            48 => "34B",
            60 => "30B",
            80 if c.head_count == c.head_count_kv => "65B",
            80 => "70B",
            _ => "",
        };
        match (known, c.parameters) {
            ("", n @ 950_000_000..) => format!("{:.0}B", n as f64 / 1e9),
            ("", n) => format!("{:.0}M", n as f64 / 1e6),
            (known, _) => known.to_owned(),
        }
    }

    /// llama.cpp's `llama_model_ftype_name`; where the file does not say, the format of most tensors.
    fn file_type(&self) -> String {
        let gguf = &self.model.gguf;
        let stated = gguf.get_u32("general.file_type").ok();
        let Some(target) = TARGETS.iter().find(|t| Some(t.file_type) == stated) else {
            let tensors = gguf.tensors();
            let count = |id: u32| tensors.iter().filter(|t| t.type_id == id).count();
            let most = tensors.iter().map(|t| t.type_id).max_by_key(|id| count(*id));
            let name = most.and_then(ggml_type).map_or("?", |t| t.name);
            return format!("{name} (guessed)");
        };
        match target.name {
            "F32" => "all F32".to_owned(),
            "MXFP4" => "MXFP4 MoE".to_owned(),
            "Q2_K" => "Q2_K - Medium".to_owned(),
            name => match name.rsplit_once('_') {
                Some((base, "S")) => format!("{base} - Small"),
                Some((base, "M")) => format!("{base} - Medium"),
                Some((base, "L")) => format!("{base} - Large"),
                _ => name.to_owned(),
            },
        }
    }
}

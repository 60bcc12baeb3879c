//! What the bench has measured.

use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Us against one rival, as `versus --json` prints it. Other fields are left out here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Line {
    pub(crate) workload: String,
    pub(crate) n: u64,
    pub(crate) threads: u64,
    pub(crate) rival: String,
    /// None where something else than time was measured.
    pub(crate) ours_ns: Option<f64>,
    pub(crate) rival_ns: Option<f64>,
    /// In a storm only.
    #[serde(flatten)]
    pub(crate) storm: Option<Storm>,
}

/// What was timed in which storm.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Storm {
    pub(crate) measure: String,
    pub(crate) invalidators: u64,
    pub(crate) gap_us: u64,
    pub(crate) ours_p50_ns: f64,
    pub(crate) ours_p99_ns: f64,
    pub(crate) ours_max_ns: f64,
    pub(crate) rival_p50_ns: f64,
    pub(crate) rival_p99_ns: f64,
    pub(crate) rival_max_ns: f64,
}

/// Who is drawn, and by which name; what the bench calls the others' side is in `rival`.
pub(crate) const OURS: &str = "this crate";
pub(crate) const RIVALS: [(&str, &str); 2] = [("kernel", "the kernel's protocol"), ("rwlock-iset", "RwLock<iset>")];

/// The names of all, in the order in which they are drawn.
pub(crate) fn legend() -> Vec<String> {
    [OURS].into_iter().chain(RIVALS.map(|(_, name)| name)).map(str::to_owned).collect()
}

pub(crate) fn read(path: &Path) -> Result<Vec<Line>, String> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
    parse(&file, &text)
}

pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Line>, String> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let parse = |(number, line)| serde_json::from_str(line).map_err(|error| format!("{file}:{number}: {error}"));
    lines.map(parse).collect()
}

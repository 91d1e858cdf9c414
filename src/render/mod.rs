//! From plain data to text: one file per format. Nothing here looks at a host.

mod excerpt;
pub mod explain;
pub mod lint;
mod page;
pub mod plan;
pub mod term;
pub mod text;
pub mod why;

use crate::report::Report;

/// `rmq-audit/report/1`.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<String> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(text)
}

/// Duration of a run for people.
pub fn seconds(report: &Report) -> String {
    format!("{:.2} s", report.run.ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::why::Why;
    use crate::lint::Lint;
    use crate::report::Report;

    /// The published schema is what the types say; `UPDATE=1 cargo test schema` writes it.
    fn published(name: &str, schema: &schemars::Schema) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/schema").join(name);
        let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == text, "{name} differs from the types: UPDATE=1 cargo test schema");
    }

    #[test]
    fn report_schema_is_published() {
        published("report-1.json", &schemars::schema_for!(Report));
    }

    #[test]
    fn lint_schema_is_published() {
        published("lint-1.json", &schemars::schema_for!(Lint));
    }

    #[test]
    fn why_schema_is_published() {
        published("why-1.json", &schemars::schema_for!(Why));
    }
}

//! Finds elements of nf_tables sets as the kernel's set types do.

use std::sync::OnceLock;

/// Elements of a set in the order in which they are searched; made once for each set.
#[derive(Debug, Clone, Default)]
pub struct Index(OnceLock<()>);
